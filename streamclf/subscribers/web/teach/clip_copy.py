"""Copy the clip of an event into the examples, with the description that an example has."""

from __future__ import annotations

import contextlib
import os
from datetime import datetime, timezone
from pathlib import Path
from typing import IO, Any

import av
import av.error

from engines.printable import printable
from streamclf.clips.example_info import ExampleInfo, area_in_film, read_film_facts
from streamclf.clips.example_labels import make_label_folder
from streamclf.clips.film_info import read_film_info
from streamclf.clips.folder import ClipFolder, MissingClipError
from streamclf.clips.names import FILM, parse_clip_path
from streamclf.errors import ClipError

_FAILURES = (av.error.FFmpegError, OSError, ValueError, IndexError)


def copy_clip(
    clips: ClipFolder, file: str, project_folder: Path, label: str, region: str | None, area: dict[str, Any] | None
) -> Path:
    """Copy the clip `file`, a path from outside, into the folder of a label; return the example. Raises `ClipError`."""
    parsed = parse_clip_path(file)
    if parsed is None or parsed[1] != FILM:
        raise MissingClipError(f"{printable(file[:200])}: no such clip; it was deleted or has expired")
    name = parsed[0]
    began_s = name.began_s or 0.0
    began = datetime.fromtimestamp(began_s, timezone.utc)
    folder = make_label_folder(project_folder, label)
    path = folder / f"{name.stream}-{began:%Y%m%d-%H%M%S}__clip{FILM}"
    if path.exists():
        raise ClipError(f"{printable(path.name)}: this clip is an example of {printable(label)} already")
    facts = read_film_facts(clips.resolve(file))
    if facts is None:
        raise ClipError(f"{printable(file)}: cannot be read; it is no film")
    area = area_in_film(area, encoded=_is_encoded(clips, file))
    info = ExampleInfo(stream=name.stream, began=began, seconds=facts.seconds, region=region, area=area)
    part = path.with_name(f".{path.name}.part")
    try:
        with clips.open(file) as source:
            _remux(source, part, info)
        part.replace(path)
    except _FAILURES as error:
        raise ClipError(f"{printable(path.name)}: {getattr(error, 'strerror', None) or error}") from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
    return path


def _is_encoded(clips: ClipFolder, file: str) -> bool:
    """Return whether the service has encoded a clip, from pictures that are rotated and masked already."""
    with contextlib.suppress(ClipError), clips.open(file) as source:
        return read_film_info(source).encoded
    return False


def _remux(source: IO[bytes], path: Path, info: ExampleInfo) -> None:
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    with os.fdopen(fd, "wb") as file, av.open(source, "r") as film:
        output: Any = av.open(file, "w", format="mp4")
        with output:
            output.metadata["comment"] = info.model_dump_json()
            stream = output.add_stream_from_template(film.streams.video[0])
            for packet in film.demux(video=0):
                if packet.size and packet.dts is not None:
                    packet.stream = stream
                    output.mux_one(packet)
        file.flush()
        os.fsync(file.fileno())
