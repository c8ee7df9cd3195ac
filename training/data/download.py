"""Download published data sets: resume partial downloads, check digests, and unpack archives safely."""

from __future__ import annotations

import csv
import json
import shutil
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlsplit

from training.data.clip_cache import exclusive_folder
from training.data.fetch import BLOCK, FileGoneError, digest_of, fetch
from training.errors import DataError

MAX_UNPACKED_BYTES = 20 << 30
MAX_MEMBERS = 200_000
MAX_GONE = 0.1
"""The largest share of a list's files that their servers may lack."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSetFile:
    """The published file of a data set. `digest` is `md5:…` or `sha256:…`, or None where the publisher gives none.

    `max_bytes` limits the bytes that a server may send. `unpacked` is the folder to unpack an archive into, None for a
    plain file.
    """

    url: str
    digest: str | None
    max_bytes: int
    unpacked: str | None
    source: str
    licence: str

    @property
    def name(self) -> str:
        """Return the file's name."""
        return urlsplit(self.url).path.rpartition("/")[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedFilms:
    """Films or photographs of GitHub repositories, which a list of this package names; `url` is the files' server.

    Columns of the list: path, split, licence, repository, commit, source (the path in the repository) and sha256, for
    films also start_s, end_s and scene. A film may have several rows.
    """

    films: Path
    unpacked: str
    source: str
    licence: str
    url: str = "https://raw.githubusercontent.com"
    max_bytes: int = 4 << 20


DATA_SETS: dict[str, DataSetFile | PublishedFilms] = {
    "fixed-cameras": PublishedFilms(
        films=Path(__file__).with_name("fixed_cameras.csv"),
        unpacked="fixed-cameras",
        source="film of fixed cameras from public repositories, for camera-events; films.csv names each film's origin",
        licence="that of each film's repository, in films.csv",
    ),
    "photos": PublishedFilms(
        films=Path(__file__).with_name("photos.csv"),
        unpacked="photos",
        source="photographs from public repositories, as scenes for camera-events; films.csv names each one's origin",
        licence="that of each photograph's repository, in films.csv",
    ),
    "materials": PublishedFilms(
        films=Path(__file__).with_name("materials.csv"),
        unpacked="materials",
        source="photographs of cloth, paper, wood and so on, as covers for camera-events; films.csv names their origin",
        licence="that of each photograph's repository, in films.csv",
    ),
    "real-events": PublishedFilms(
        films=Path(__file__).with_name("real_events.csv"),
        unpacked="real-events",
        source="film of cameras that are really covered, turned or blinded, to measure camera-events; films.csv names "
        "their origin",
        licence="that of each film's repository, in films.csv; most state none: to measure with, not to publish",
    ),
    "organmnist3d": DataSetFile(
        url="https://zenodo.org/records/10519652/files/organmnist3d.npz",
        # From medmnist/info.py of MedMNIST 3.0.
        digest="md5:a0c5a1ff56af4f155c46d46fbb45a2fe",
        max_bytes=1 << 30,
        unpacked=None,
        source="MedMNIST v2 (Yang et al. 2023): 971, 161 and 610 volumes of 11 organs, 28 x 28 x 28",
        licence="CC BY 4.0",
    ),
    "ucf101top5": DataSetFile(
        url=(
            "https://github.com/sayakpaul/Action-Recognition-in-TensorFlow/releases/download/v1.0.0/ucf101_top5.tar.gz"
        ),
        digest=None,
        max_bytes=2 << 30,
        unpacked="ucf101top5",
        source="UCF101 (Soomro et al. 2012), the five classes of the Keras examples: 594 and 224 clips",
        licence="none stated by UCF101's authors: research",
    ),
}


def download(name: str, folder: Path, *, url: str | None = None) -> Path:
    """Download the data set `name` into `folder`, and return the path for a recipe's `data.path`.

    A complete file with the right digest is not downloaded again, and a partial one is resumed. `url` names a mirror.
    Raises `DataError` that names the problem and the remedy.
    """
    published = DATA_SETS.get(name)
    if published is None:
        raise DataError(f"{name}: unknown data set; there are {', '.join(DATA_SETS)}")
    address = url or published.url
    scheme = urlsplit(address).scheme
    if scheme not in ("https", "http"):
        raise DataError(f"{address}: https or http, not {scheme or 'nothing'}")
    if isinstance(published, PublishedFilms):
        with exclusive_folder(folder / published.unpacked):
            return _download_films(published, address, folder / published.unpacked)
    if scheme == "http" and published.digest is None and not _recorded_digest(folder / published.name):
        host = urlsplit(address).hostname
        if host not in ("127.0.0.1", "localhost", "::1"):
            raise DataError(f"{address}: the publisher gives no digest of this file, so it is only taken over https")
    with exclusive_folder(folder):
        file = folder / published.name
        wanted = published.digest or _recorded_digest(file)
        if not (file.is_file() and wanted is not None and digest_of(file, wanted.partition(":")[0]) == wanted):
            file.unlink(missing_ok=True)
            fetch(address, file, published.max_bytes)
            _check(file, wanted, address)
        if published.unpacked is None:
            return file
        target = folder / published.unpacked
        if not target.is_dir():
            unpack(file, target)
        return target


def _download_films(published: PublishedFilms, server: str, folder: Path) -> Path:
    """Download the files that `folder` lacks, and write the list of all that are there.

    A file that its server no longer has is left out, and named. Raises `DataError` where over 10 % are gone.
    """
    with published.films.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    gone = []
    for number, row in enumerate(rows, start=1):
        film, digest = folder / row["path"], f"sha256:{row['sha256']}"
        if film.is_file() and digest_of(film, "sha256") == digest:
            continue
        address = f"{server.rstrip('/')}/{row['repository']}/{row['commit']}/{quote(row['source'])}"
        try:
            fetch(address, film, published.max_bytes, title=f"{number} of {len(rows)}: {row['path']}")
            _check(film, digest, address)
        except FileGoneError:
            gone.append(row)
            print(f"{row['path']}: left out, {address} has no such file any more", file=sys.stderr, flush=True)
    if len(gone) > MAX_GONE * len(rows):
        raise DataError(
            f"{server}: {len(gone)} of {len(rows)} files are gone, at most {MAX_GONE:.0%} may be; check the connection "
            "and proxy, or give a mirror with --url"
        )
    listed = folder / "films.csv"
    partial = listed.with_suffix(".part")
    with partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(row for row in rows if row not in gone)
    partial.replace(listed)
    return folder


def _recorded_digest(file: Path) -> str | None:
    """Return the digest that was recorded at the first download of a file whose publisher gives none."""
    try:
        return str(json.loads(_digest_file(file).read_text(encoding="utf-8"))["digest"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _digest_file(file: Path) -> Path:
    return file.with_name(f"{file.name}.digest.json")


def _check(file: Path, wanted: str | None, address: str) -> None:
    """Compare the file with its digest, or record the digest where none is known."""
    if wanted is None:
        found = digest_of(file, "sha256")
        _digest_file(file).write_text(json.dumps({"digest": found, "url": address}) + "\n", encoding="utf-8")
        print(
            f"{file.name}: its publisher gives no digest; this copy has {found}, and later copies must have the same",
            file=sys.stderr,
            flush=True,
        )
        return
    found = digest_of(file, wanted.partition(":")[0])
    if found != wanted:
        file.unlink()
        raise DataError(
            f"{address}: the downloaded file has the digest {found}, expected {wanted}; it was damaged or replaced, "
            "and has been deleted: try again, or give a mirror with --url"
        )


def unpack(archive: Path, target: Path) -> None:
    """Unpack a .tar.gz into `target`, completely or not at all.

    Only plain files and folders inside `target` are written. Raises `DataError` for links, devices and paths that
    lead elsewhere.
    """
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as folder:
        unpacked = Path(folder) / "content"
        unpacked.mkdir()
        size = 0
        try:
            with tarfile.open(archive, "r:*") as tar:
                for count, member in enumerate(tar, start=1):
                    size += member.size
                    if count > MAX_MEMBERS or size > MAX_UNPACKED_BYTES:
                        raise DataError(
                            f"{archive}: over {MAX_MEMBERS} files or {MAX_UNPACKED_BYTES >> 30} GiB; not unpacked"
                        )
                    _extract(tar, member, unpacked, archive)
        except (tarfile.TarError, EOFError, OSError, ValueError) as error:
            raise DataError(f"{archive}: cannot be unpacked ({error}); delete it and download it again") from error
        items = list(unpacked.iterdir())
        content = items[0] if len(items) == 1 and items[0].is_dir() else unpacked
        content.rename(target)


def _extract(tar: tarfile.TarFile, member: tarfile.TarInfo, folder: Path, archive: Path) -> None:
    """Write one member. This function does not use `tarfile`'s extraction, which also restores owners and modes."""
    path = (folder / member.name).resolve()
    if not path.is_relative_to(folder.resolve()) or not (member.isfile() or member.isdir()):
        raise DataError(f"{archive}: {member.name!r} leads out of the folder or is no plain file; not unpacked")
    if member.isdir():
        path.mkdir(parents=True, exist_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    source = tar.extractfile(member)
    assert source is not None  # the member is a file
    with source, path.open("wb") as file:
        shutil.copyfileobj(source, file, BLOCK)
