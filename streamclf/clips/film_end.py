"""Make complete films of files that were being written: with their metadata, and with the index at the beginning."""

from __future__ import annotations

import contextlib
import fcntl
import io
import logging
import os
import stat
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import av
import av.error

from streamclf.clips.film_file import FAILURES, TIME_BASE, WholeFile, lock_film
from streamclf.clips.film_info import FilmInfo, parse_film_info, read_film_info
from streamclf.clips.folder import ClipFolder
from streamclf.clips.names import FILM, valid_day
from streamclf.errors import ClipError

log = logging.getLogger(__name__)

PART: Final = ".part"
COPY: Final = ".copy"
MAX_LEFTOVERS: Final = 1000
PAUSE_PACKETS: Final = 64
PAUSE_S: Final = 0.001
"""After so many packets the writer pauses: it shares the interpreter lock with the thread that reads the source."""


def part_path(film: Path) -> Path:
    """Return the hidden name of a film while it is written: `.NAME.part`."""
    return film.with_name(f".{film.name}{PART}")


def complete_film(part: Path, film: Path, info: FilmInfo) -> int:
    """Copy the packets of `part` into `film`, with the metadata of `info`; return its bytes.

    `film` gets its name once it is on disk. `part` stays until `remove_part`, which follows the film's event: so a film
    whose event was never posted, because the process was killed, can be recognised. Raises `ClipError`, also for a part
    without a picture.
    """
    copy = film.with_name(f".{film.stem}{COPY}{PART}")
    try:
        with part.open("rb", buffering=0) as source:
            _copy(source, copy, info)
        copy.replace(film)
        return film.stat().st_size
    except FAILURES as error:
        copy.unlink(missing_ok=True)
        raise ClipError(f"{film.name}: {getattr(error, 'strerror', None) or error}") from error


def remove_part(film: Path) -> None:
    """Remove what is left of the time in which `film` was written, after its event was posted."""
    with contextlib.suppress(OSError):  # the next process of the stream removes it
        part_path(film).unlink(missing_ok=True)


def read_part(part: Path) -> tuple[FilmInfo, float]:
    """Return the description that an unfinished film began with, and the seconds that it shows.

    Raises `ClipError` if nothing of it can be played.
    """
    try:
        with part.open("rb", buffering=0) as file, av.open(file, "r") as container:
            info = parse_film_info(container.metadata.get("comment", ""))
            times = [packet.pts for packet in _packets(container) if packet.pts is not None]
            if not times:
                raise ClipError(f"{part.name}: holds no picture")
            return info, (max(times) - min(times)) * float(container.streams.video[0].time_base or TIME_BASE)
    except (*FAILURES, IndexError) as error:
        raise ClipError(f"{part.name}: {getattr(error, 'strerror', None) or error}") from error


def recover(folder: Path, stream: str) -> Iterator[tuple[Path, FilmInfo, int]]:
    """Complete the films that an earlier process of `stream` left; yield each with its description and bytes.

    Complete films whose event was not posted are among them. Parts that cannot be played are removed. A part that
    another process writes, and anything that is no regular file, is left alone. Raises nothing.
    """
    for part in _leftovers(folder / stream):
        try:
            lock = os.open(part, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError:
            continue
        try:
            if not stat.S_ISREG(os.fstat(lock).st_mode):  # reading a pipe would never end
                continue
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            found = _recover_one(part, folder, stream)
        except OSError:  # another process writes it
            continue
        finally:
            os.close(lock)
        if found is not None:
            yield found


def _recover_one(part: Path, folder: Path, stream: str) -> tuple[Path, FilmInfo, int] | None:
    film = part.with_name(part.name[1 : -len(PART)])
    try:
        if film.suffix != FILM:
            raise ClipError(f"{part.name}: the copy of a film")
        info, seconds = read_part(part)
        if folder / info.name.film != film or info.name.stream != stream:
            raise ClipError(f"{part.name}: another film has its name")
        if film.exists():
            return _unannounced(part, folder, info)
        note = "the service ended while it was written"
        info = replace(info, end_s=info.start_s + seconds, last=True, note=note)  # a new process ends the action
        size = complete_film(part, film, info)
    except ClipError as error:
        part.unlink(missing_ok=True)
        if film.suffix == FILM:
            log.warning("an unfinished clip was removed, because it cannot be played: %s", error)
        return None
    log.warning("clip %s recovered: %s; it shows %.1f s", info.name.film, note, seconds)
    return film, info, size


def _unannounced(part: Path, folder: Path, begun: FilmInfo) -> tuple[Path, FilmInfo, int]:
    """Return the complete film of `part`, whose event was not posted. Raises `ClipError` if it is another film."""
    with ClipFolder(folder).open(begun.name.film) as file:
        info, size = read_film_info(file), os.fstat(file.fileno()).st_size
    if (info.name, info.began, info.epoch, info.part) != (begun.name, begun.began, begun.epoch, begun.part):
        raise ClipError(f"{part.name}: another film has its name")
    log.warning("clip %s: the service ended before its event was sent; it is sent now", info.name.film)
    return folder / info.name.film, info, size


def _leftovers(folder: Path) -> list[Path]:
    """Return the hidden files in the folders of all days: unfinished films first, then unfinished copies of them."""
    films: list[Path] = []
    copies: list[Path] = []
    with contextlib.suppress(OSError):  # the folder does not exist yet, or cannot be read: writing a film reports it
        for day in [] if folder.is_symlink() else folder.iterdir():
            if valid_day(day.name) and day.is_dir() and not day.is_symlink():
                hidden = [path for path in day.iterdir() if path.name.startswith(".") and path.suffix == PART]
                films += [path for path in hidden if path.name.endswith(FILM + PART)]
                copies += [path for path in hidden if path.name.endswith(COPY + PART)]
    return [*sorted(films), *copies][:MAX_LEFTOVERS]


def _packets(container: Any) -> Iterator[Any]:
    """Iterate over the packets; a file that ends in the middle of a fragment ends there."""
    packets = container.demux(video=0)
    while True:
        try:
            packet = next(packets, None)
        except FAILURES:
            return
        if packet is None or packet.is_corrupt:  # its end is missing
            return
        if packet.size and packet.dts is not None:
            yield packet


def _copy(source: io.FileIO, path: Path, info: FilmInfo) -> None:
    path.unlink(missing_ok=True)  # of a killed process
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    lock_film(fd)
    with WholeFile(fd, "w") as file, av.open(source, "r") as parts:
        video = parts.streams.video[0]
        # The index moves to the beginning: libavformat reads its own file again for that.
        output: Any = av.open(
            file,
            "w",
            format="mp4",
            options={"movflags": "faststart"},
            io_open=lambda url, flags, options: path.open("rb", buffering=0),
        )
        is_complete = False
        try:
            output.metadata.update(
                {
                    "title": info.title,
                    "comment": info.to_json(),
                    "creation_time": info.began.isoformat(),
                }
            )
            stream = output.add_stream_from_template(video)
            if video.codec_context.name == "hevc":
                stream.codec_context.codec_tag = "hvc1"
            first = None
            for count, packet in enumerate(_packets(parts)):
                if first is None:
                    first = packet.pts
                packet.pts, packet.dts = packet.pts - first, packet.dts - first
                packet.stream = stream
                output.mux_one(packet)
                if count % PAUSE_PACKETS == PAUSE_PACKETS - 1:
                    time.sleep(PAUSE_S)
            if first is None:
                raise ValueError("it holds no picture")
            is_complete = True
        finally:
            if not is_complete:
                file.close()
            output.close()
        os.fsync(fd)
