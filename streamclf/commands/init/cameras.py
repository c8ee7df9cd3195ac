"""Read the cameras that a user names: `--camera 0`, `--url door=rtsp://…`, or both in one answer."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from streamclf.commands.init.credentials import Credentials
from streamclf.config.placeholders import Substitution
from streamclf.config.source import SourceConfig
from streamclf.errors import UsageError, plain_fault
from streamclf.net.names import MAX_NAME_CHARS, MAX_STREAMS, STREAM_NAME_RULE, valid_stream_name
from streamclf.redact import register_url

_NAMED: Final = re.compile(r"([^=:/@?]*)=(.+)", re.DOTALL)
_REFUSED_IN_NAMES: Final = re.compile(r"[^A-Za-z0-9_-]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class NewStream:
    """A stream of the new configuration: its name, and the keys of its source with `${NAME}` for each secret."""

    name: str
    keys: Mapping[str, str | int | bool]

    def source(self, environ: Mapping[str, str], folder: Path = Path()) -> SourceConfig:
        """Return the source with the values of its variables; a file is relative to `folder`. Raises `UsageError`."""
        try:
            source = SourceConfig.model_validate(Substitution(environ).apply(dict(self.keys), (self.name,)))
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False, include_input=False)[0]
            raise UsageError(f"{self.name}: {plain_fault(first['msg'])}") from None
        if source.is_file and not source.is_file_url:
            return source.model_copy(update={"url": str(folder / source.file_path)})
        return source


def split_answer(answer: str) -> tuple[list[str], list[str]]:
    """Split an answer like `0 door=rtsp://…` into cameras and URLs. Raises `UsageError` for open quotes."""
    cameras: list[str] = []
    urls: list[str] = []
    try:
        words = shlex.split(answer)
    except ValueError:
        raise UsageError("quotes that do not end; close them") from None
    for word in words:
        value = _split_name(word)[1]
        (cameras if value.isdigit() or value.startswith("/dev/") else urls).append(word)
    return cameras, urls


def parse_streams(
    cameras: Iterable[str], urls: Iterable[str], folder: Path, credentials: Credentials, environ: Mapping[str, str]
) -> list[NewStream]:
    """Return a stream for each camera and URL, each perhaps given as NAME=…; `folder` is the configuration's.

    The passwords move into `credentials`. Raises `UsageError` for one that cannot be used, or a name given twice.
    """
    given = [("camera", *_split_name(text)) for text in cameras] + [("url", *_split_name(text)) for text in urls]
    if len(given) > MAX_STREAMS:
        raise UsageError(f"{len(given)} cameras: at most {MAX_STREAMS}")
    taken = {name for _, name, _ in given if name}
    found: dict[str, NewStream] = {}
    for key, name, value in given:
        if not value:
            raise UsageError(f"--{key}: an empty text; give {'an index' if key == 'camera' else 'an address'}")
        name = name or _free_name(_suggest_name(key, value), taken)
        taken.add(name)
        if name in found:
            raise UsageError(f"two cameras have the name {name}; give each its own, like {name}-2=…")
        found[name] = _stream(name, key, value, folder, credentials, environ)
    return list(found.values())


def _stream(
    name: str, key: str, value: str, folder: Path, credentials: Credentials, environ: Mapping[str, str]
) -> NewStream:
    register_url(value)
    if key == "camera":
        stream = NewStream(name=name, keys={"camera": int(value) if value.isascii() and value.isdigit() else value})
        stream.source(environ)
        return stream
    source = NewStream(name=name, keys={"url": value}).source(environ)
    if source.is_file:
        if not source.file_path.exists():
            raise UsageError(
                f"{value}: no such file; give a video file, a URL like rtsp://HOST/PATH, or the index of a camera"
            )
        if not source.is_file_url and not Path(value).is_absolute():
            value = os.path.relpath(value, folder)
        return NewStream(name=name, keys={"url": value, "loop": True})
    return NewStream(name=name, keys={"url": credentials.take_from(value, name)})


def _split_name(text: str) -> tuple[str, str]:
    """Split `NAME=VALUE`; the name is empty if there is none. A `=` may also belong to an address."""
    match = _NAMED.fullmatch(text)
    if match is None:
        return "", text
    name, value = match[1].strip(), match[2]
    if not valid_stream_name(name):
        raise UsageError(f"the name {name[:MAX_NAME_CHARS]!r} before =: must be {STREAM_NAME_RULE}")
    return name, value


def _suggest_name(key: str, value: str) -> str:
    if key == "camera":
        own = value if value.isdigit() else f"-{_REFUSED_IN_NAMES.sub('-', Path(value).name).strip('-')}"
        return f"camera{own}"[:MAX_NAME_CHARS]
    if "://" in value:
        return "camera"
    return _REFUSED_IN_NAMES.sub("-", Path(value).stem).strip("-")[: MAX_NAME_CHARS - 4] or "film"


def _free_name(suggested: str, taken: Collection[str]) -> str:
    """Return `suggested`, or the first of `suggested1`, `suggested2`, … that is not taken."""
    if suggested not in taken and suggested != "camera":
        return suggested
    return next(name for number in range(1, MAX_STREAMS + 2) if (name := f"{suggested}{number}") not in taken)
