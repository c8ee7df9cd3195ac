"""Downloads from a real HTTP server: partial, damaged, moved and hostile files."""

from __future__ import annotations

import csv
import hashlib
import io
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from support.labelled import write_volumes
from typer.testing import CliRunner

from training.__main__ import app
from training.builtin.camera_events.film_windows import listed_films
from training.data import download as download_module
from training.data import fetch as fetch_module
from training.data.clip_lists import read_rows
from training.data.download import DATA_SETS, PublishedFilms, download, unpack
from training.data.volumes import read_volumes
from training.errors import DataError


@dataclass
class Site:
    """The files of the server, and the faults that it simulates."""

    url: str
    files: dict[str, bytes] = field(default_factory=dict)
    cut_after: int | None = None
    status: int | None = None
    ranges: bool = True
    requests: list[tuple[str, str]] = field(default_factory=list)


@pytest.fixture
def site() -> Iterator[Site]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

        def do_GET(self) -> None:
            wanted = self.headers.get("Range", "")
            here.requests.append((self.path, wanted))
            if here.status is not None:
                self.send_error(here.status)
                return
            if self.path.startswith("/moved/"):
                self.send_response(302)
                self.send_header("Location", f"{here.url}{self.path.removeprefix('/moved')}")
                self.end_headers()
                return
            data = here.files.get(self.path)
            if data is None:
                self.send_error(404)
                return
            tag = f'"{hashlib.md5(data).hexdigest()}"'
            start = 0
            if wanted and here.ranges and self.headers.get("If-Range") == tag:
                start = int(wanted.removeprefix("bytes=").removesuffix("-"))
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
            else:
                self.send_response(200)
            self.send_header("ETag", tag)
            self.send_header("Content-Length", str(len(data) - start))
            self.end_headers()
            end = len(data) if here.cut_after is None else min(start + here.cut_after, len(data))
            self.wfile.write(data[start:end])

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    here = Site(url=f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield here
    server.shutdown()
    thread.join(60)
    server.server_close()


@pytest.fixture
def organs(site, tmp_path, monkeypatch) -> bytes:
    """Publish a small file in OrganMNIST3D's format with its digest."""
    data = write_volumes(tmp_path / "source" / "organmnist3d.npz", each=1).read_bytes()
    site.files["/organmnist3d.npz"] = data
    known = replace(
        DATA_SETS["organmnist3d"],
        url=f"{site.url}/organmnist3d.npz",
        digest=f"md5:{hashlib.md5(data).hexdigest()}",
    )
    monkeypatch.setitem(download_module.DATA_SETS, "organmnist3d", known)
    return data


def archive(*members: tuple[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


TOP5 = archive(
    ("train.csv", b"tag,video_name\nPunch,v_Punch_g08_c01.avi\n"),
    ("test.csv", b"tag,video_name\nPunch,v_Punch_g01_c01.avi\n"),
    ("train/v_Punch_g08_c01.avi", b"film"),
    ("test/v_Punch_g01_c01.avi", b"film"),
)


def test_file_is_downloaded_once(site, organs, tmp_path):
    path = download("organmnist3d", tmp_path / "data")
    assert path.read_bytes() == organs
    images, labels = read_volumes(path, "train", crop=None)
    assert (images.shape, labels.tolist()) == ((11, 28, 28, 28), list(range(11)))
    assert download("organmnist3d", tmp_path / "data") == path
    assert len(site.requests) == 1
    assert [item.name for item in (tmp_path / "data").iterdir() if item.name != ".lock"] == ["organmnist3d.npz"]


def test_cut_download_resumes(site, organs, tmp_path):
    site.cut_after = len(organs) // 3
    assert download("organmnist3d", tmp_path).read_bytes() == organs
    starts = [int(wanted[6:-1]) for _, wanted in site.requests if wanted]
    assert starts == [len(organs) // 3, 2 * (len(organs) // 3), 3 * (len(organs) // 3)][: len(starts)]
    assert len(starts) >= 2


def test_stopped_command_keeps_the_partial_file(site, organs, tmp_path, monkeypatch):
    part = tmp_path / "organmnist3d.npz.part"
    site.cut_after = 1000
    original = fetch_module._fetch_rest

    def once(*args):
        if part.is_file():
            raise KeyboardInterrupt
        return original(*args)

    monkeypatch.setattr(fetch_module, "_fetch_rest", once)
    with pytest.raises(KeyboardInterrupt):
        download("organmnist3d", tmp_path)
    assert part.stat().st_size == 1000
    monkeypatch.setattr(fetch_module, "_fetch_rest", original)
    site.cut_after = None
    assert download("organmnist3d", tmp_path).read_bytes() == organs
    assert site.requests[-1][1] == "bytes=1000-"


def test_file_that_changed_is_downloaded_from_the_start(site, organs, tmp_path):
    part = tmp_path / "organmnist3d.npz.part"
    part.write_bytes(b"of another file")
    part.with_name(f"{part.name}.tag").write_text('"old"')
    assert download("organmnist3d", tmp_path).read_bytes() == organs


def test_server_without_ranges_sends_the_whole_file(site, organs, tmp_path):
    site.ranges = False
    part = tmp_path / "organmnist3d.npz.part"
    part.write_bytes(organs[:500])
    part.with_name(f"{part.name}.tag").write_text(f'"{hashlib.md5(organs).hexdigest()}"')
    assert download("organmnist3d", tmp_path).read_bytes() == organs


def test_damaged_file_is_deleted(site, organs, tmp_path):
    site.files["/organmnist3d.npz"] = organs[:-1] + b"x"
    with pytest.raises(DataError, match=r"md5:[0-9a-f]{32}, expected md5:[0-9a-f]{32}; it was damaged or replaced"):
        download("organmnist3d", tmp_path)
    assert not (tmp_path / "organmnist3d.npz").exists()


def test_failing_server_is_tried_five_times(site, organs, tmp_path):
    site.status = 503
    with pytest.raises(DataError, match=r"the server answered 503, 5 times; 0 bytes are kept"):
        download("organmnist3d", tmp_path)
    assert len(site.requests) == 5


def test_missing_file_is_an_error_and_redirects_are_followed(site, organs, tmp_path):
    with pytest.raises(DataError, match="the server answered 404"):
        download("organmnist3d", tmp_path, url=f"{site.url}/elsewhere.npz")
    assert download("organmnist3d", tmp_path, url=f"{site.url}/moved/organmnist3d.npz").read_bytes() == organs


def test_file_larger_than_expected_is_refused(site, organs, tmp_path, monkeypatch):
    known = replace(download_module.DATA_SETS["organmnist3d"], max_bytes=1000)
    monkeypatch.setitem(download_module.DATA_SETS, "organmnist3d", known)
    with pytest.raises(DataError, match="at most 1000 are expected"):
        download("organmnist3d", tmp_path)


def top5(site, monkeypatch, data: bytes) -> None:
    site.files["/ucf101_top5.tar.gz"] = data
    known = replace(DATA_SETS["ucf101top5"], url=f"{site.url}/ucf101_top5.tar.gz")
    monkeypatch.setitem(download_module.DATA_SETS, "ucf101top5", known)


def test_archive_becomes_a_folder_that_recipes_read(site, tmp_path, monkeypatch, capsys):
    top5(site, monkeypatch, TOP5)
    folder = download("ucf101top5", tmp_path)
    assert folder == tmp_path / "ucf101top5"
    rows, base = read_rows(folder)
    assert {(row.label, row.split) for row in rows} == {("Punch", "train"), ("Punch", "test")}
    assert all((base / row.path).read_bytes() == b"film" for row in rows)
    assert f"this copy has sha256:{hashlib.sha256(TOP5).hexdigest()}" in capsys.readouterr().err


def test_digest_of_the_first_copy_is_recorded(site, tmp_path, monkeypatch):
    top5(site, monkeypatch, TOP5)
    download("ucf101top5", tmp_path)
    (tmp_path / "ucf101_top5.tar.gz").unlink()
    top5(site, monkeypatch, archive(("evil.txt", b"else")))
    with pytest.raises(DataError, match="it was damaged or replaced"):
        download("ucf101top5", tmp_path)


def test_http_without_a_digest_is_refused(tmp_path):
    with pytest.raises(DataError, match="only taken over https"):
        download("ucf101top5", tmp_path, url="http://192.0.2.1/ucf101_top5.tar.gz")
    with pytest.raises(DataError, match="https or http, not file"):
        download("ucf101top5", tmp_path, url="file:///etc/passwd")


@pytest.mark.parametrize("name", ["../outside.txt", "/tmp/outside.txt", "a/../../outside.txt"])
def test_no_file_is_unpacked_outside_the_folder(tmp_path, name):
    path = tmp_path / "evil.tar.gz"
    path.write_bytes(archive(("good.txt", b"good"), (name, b"evil")))
    with pytest.raises(DataError, match="leads out of the folder"):
        unpack(path, tmp_path / "target")
    assert sorted(item.name for item in tmp_path.iterdir()) == ["evil.tar.gz"]


def test_link_is_not_unpacked(tmp_path):
    path = tmp_path / "evil.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc"
        tar.addfile(link)
    with pytest.raises(DataError, match="'link' leads out of the folder or is no plain file"):
        unpack(path, tmp_path / "target")


def test_damaged_archive_is_an_error(tmp_path):
    path = tmp_path / "half.tar.gz"
    path.write_bytes(TOP5[: len(TOP5) // 2])
    with pytest.raises(DataError, match="cannot be unpacked"):
        unpack(path, tmp_path / "target")
    assert not (tmp_path / "target").exists()


def test_command_prints_the_path(site, organs, tmp_path):
    result = CliRunner().invoke(app, ["download", "organmnist3d", "--folder", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert result.stdout.strip() == str(tmp_path / "organmnist3d.npz")
    assert "CC BY 4.0" in result.stderr
    unknown = CliRunner().invoke(app, ["download", "kinetics"])
    assert unknown.exit_code == 1
    assert "there are fixed-cameras, photos, materials, real-events, organmnist3d, ucf101top5" in unknown.stderr


def test_every_data_set_is_fetched_over_https():
    for name, published in DATA_SETS.items():
        assert published.url.startswith("https://"), name


def published_films(site, folder, monkeypatch, count: int = 12) -> None:
    """Publish films of several repositories, and their list in the format of `fixed_cameras.csv`."""
    lines = ["path,split,start_s,end_s,scene,licence,repository,commit,source,sha256"]
    for number in range(count):
        data = b"film %d" % number
        site.files[f"/owner/repository{number}/abc/a%20film.mp4"] = data
        digest = hashlib.sha256(data).hexdigest()
        lines.append(f"{number}.mp4,train,0,3,a road,MIT,owner/repository{number},abc,a film.mp4,{digest}")
    (folder / "list.csv").write_text("\n".join(lines) + "\n")
    known = replace(DATA_SETS["fixed-cameras"], url=site.url, films=folder / "list.csv")
    monkeypatch.setitem(download_module.DATA_SETS, "fixed-cameras", known)


def test_films_of_several_repositories_become_a_listed_folder(site, tmp_path, monkeypatch, capsys):
    published_films(site, tmp_path, monkeypatch)
    del site.files["/owner/repository3/abc/a%20film.mp4"]
    folder = download("fixed-cameras", tmp_path)
    listed = listed_films(folder)
    assert [film.path.name for film in listed] == [f"{number}.mp4" for number in range(12) if number != 3]
    assert [film.path.read_bytes() for film in listed[:2]] == [b"film 0", b"film 1"]
    assert "3.mp4: left out" in capsys.readouterr().err
    before = len(site.requests)
    download("fixed-cameras", tmp_path)
    assert [path for path, _ in site.requests[before:]] == ["/owner/repository3/abc/a%20film.mp4"]


def test_a_list_whose_films_are_gone_or_changed_is_refused(site, tmp_path, monkeypatch):
    published_films(site, tmp_path, monkeypatch)
    site.files["/owner/repository5/abc/a%20film.mp4"] = b"another"
    with pytest.raises(DataError, match="damaged or replaced"):
        download("fixed-cameras", tmp_path)
    site.files.clear()
    with pytest.raises(DataError, match="7 of 12 files are gone, at most 10% may be"):
        download("fixed-cameras", tmp_path)
    assert not (tmp_path / "fixed-cameras" / "films.csv").exists()


@pytest.mark.parametrize("name", ["fixed-cameras", "photos", "materials"])
def test_a_list_of_films_or_photographs_is_complete(name: str) -> None:
    published = DATA_SETS[name]
    assert isinstance(published, PublishedFilms)
    with published.films.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len({row["path"] for row in rows}) == len({row["sha256"] for row in rows}) == len(rows) > 100
    splits = {row["repository"]: row["split"] for row in rows}
    parts = {"train", "held-out"} if name == "materials" else {"train", "tuning", "held-out"}
    assert set(splits.values()) == parts
    for row in rows:
        assert len(row["sha256"]) == 64
        assert len(row["commit"]) == 40
        assert row["licence"]
        assert row["split"] == splits[row["repository"]], "the files of one repository stay together"
        if name == "fixed-cameras":
            assert row["scene"]
            assert float(row["end_s"]) - float(row["start_s"]) >= 2.0


def test_no_repository_is_trained_on_and_measured_with() -> None:
    splits: dict[str, set[str]] = {}
    for published in DATA_SETS.values():
        if isinstance(published, PublishedFilms):
            with published.films.open(newline="") as file:
                for row in csv.DictReader(file):
                    splits.setdefault(row["repository"].lower(), set()).add(row["split"])
    assert not {name: found for name, found in splits.items() if len(found) > 1}
