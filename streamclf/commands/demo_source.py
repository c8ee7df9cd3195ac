"""Choose the source of `streamclf demo`, and say how to run a service on it."""

from __future__ import annotations

import contextlib
import re
import shlex
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from engines.cache import cache_root
from engines.printable import printable
from streamclf import __version__
from streamclf.commands.demo_film import render_film
from streamclf.config.outlets import outlet_options
from streamclf.config.stream import StreamConfig
from streamclf.errors import SourceError, UsageError
from streamclf.redact import redact
from streamclf.sources import open_source
from streamclf.sources.camera import list_cameras

_URL: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_REFUSED_IN_NAMES: Final = re.compile(r"[^A-Za-z0-9_-]+")
_MAX_NAME_CHARS: Final = 60
_CONFIG: Final = "cameras.yaml"


@dataclass(frozen=True, slots=True)
class DemoSource:
    """A source, with the name of its stream and the commands that run a service on it."""

    stream: str
    config: StreamConfig
    init_arguments: str
    """Arguments of `streamclf init` that name the source, without credentials."""

    @property
    def service_commands(self) -> tuple[str, str]:
        """The commands that write a configuration with this source, and run it."""
        arguments = f" {self.init_arguments}" if self.init_arguments else ""
        return f"streamclf init {_CONFIG}{arguments}", f"streamclf run {_CONFIG}"


def choose_source(text: str | None) -> DemoSource:
    """Choose the source that `text` names: the number or device of a camera, a URL, or the path of a film.

    None chooses the first camera, or a rendered film if there is none. Raises `UsageError` for a text that names no
    source, and `SourceError` if the named source gives no frame.
    """
    if text is None:
        return _first_camera() or DemoSource("film", _film(_rendered_film()), "")
    if not text.strip():
        raise UsageError("an empty source; give a video file, a URL like rtsp://HOST/PATH, or the number of a camera")
    if text.isdecimal() or text.startswith("/dev/"):
        source = _camera(int(text) if text.isdecimal() else text)
    elif _URL.match(text):
        shown = shlex.quote(printable(redact(text)))
        source = DemoSource("camera", outlet_options(StreamConfig, url=text), f"--url {shown}")
        if source.config.is_file:
            source = _named_film(source.config.file_path, shown)
    else:
        source = _named_film(Path(text), shlex.quote(printable(text)))
    _read_frame(source.config)
    return source


def _first_camera() -> DemoSource | None:
    if sys.platform.startswith("linux"):
        found = [known.index for known in list_cameras()]
        return _camera(found[0]) if found else None
    with contextlib.suppress(SourceError):  # other systems do not list cameras: try to open one
        _read_frame(_camera(0).config)
        return _camera(0)
    return None


def _camera(camera: int | str) -> DemoSource:
    name = f"camera{camera}" if isinstance(camera, int) else _REFUSED_IN_NAMES.sub("-", camera.removeprefix("/dev/"))
    shown = shlex.quote(printable(str(camera)))
    return DemoSource(name[:_MAX_NAME_CHARS], outlet_options(StreamConfig, camera=camera), f"--camera {shown}")


def _named_film(path: Path, shown: str) -> DemoSource:
    if not path.is_file():
        fault = "a folder" if path.is_dir() else "no such file"
        raise UsageError(
            f"{path}: {fault}; give a video file, a URL like rtsp://HOST/PATH, or the number of a camera like 0"
        )
    name = _REFUSED_IN_NAMES.sub("-", path.stem).strip("-")[:_MAX_NAME_CHARS]
    return DemoSource(name or "film", _film(path), f"--url {shown}")


def _film(path: Path) -> StreamConfig:
    return outlet_options(StreamConfig, url=str(path.absolute()), pace="realtime", loop=True)


def _read_frame(config: StreamConfig) -> None:
    """Read one frame. Raises `SourceError`."""
    with open_source(config) as source:
        if next(source, None) is None:
            raise SourceError("the source ended before its first frame; give another one")


def _rendered_film() -> Path:
    """Return the path of the rendered film: in the cache, or a temporary directory if the cache is not writable."""
    try:
        folder = cache_root()
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"demo-{__version__}.mp4"
        if not path.exists():
            render_film(path)
    except OSError:
        path = Path(tempfile.mkdtemp(prefix="streamclf-")) / "demo.mp4"
        render_film(path)
    return path
