"""Hold the checked keys of one source, as its capture process gets them, without pydantic.

`streamclf.config.source` has the keys of the configuration, with their limits.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypeAlias
from urllib.parse import unquote_to_bytes

FROZEN_S: Final = 30.0
"""Cameras that save bits send a key frame every 10 to 20 s. In between they repeat frames of a still scene exactly."""
FILE_URL: Final = re.compile(r"file:(?://(?:localhost)?(?=/)|(?!//))(/.*)", re.IGNORECASE | re.DOTALL)
"""RFC 8089: also with one slash, and with the host of this machine."""


DecodeMode: TypeAlias = Literal["auto", "exact", "fast"]
DeviceName: TypeAlias = Literal["auto", "cpu", "cuda", "vaapi", "videotoolbox"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceSettings:
    """The keys of `streamclf.config.source.SourceConfig`, with the same defaults."""

    camera: int | str | None = None
    url: str | None = None
    images: str | None = None
    push: str | None = None
    push_secret: str | None = None
    fps: float | None = None
    transport: Literal["tcp", "udp"] = "tcp"
    demuxer: Literal["auto", "rtp", "ffmpeg"] = "auto"
    decode: DecodeMode = "auto"
    decode_device: DeviceName = "cpu"
    tls_ca: str | None = None
    tls_verify: bool = True
    pace: Literal["realtime", "fast"] = "realtime"
    loop: bool = False
    open_timeout_s: float = 5.0
    read_timeout_s: float = 2.0
    frozen_s: float | None = None

    @property
    def frozen_after_s(self) -> float:
        """Seconds of identical frames after which the stream counts as frozen; 0 for never.

        If `frozen_s` is not set, this depends on the source: cameras make noise, but a film or a program may show one
        image for long.
        """
        if self.frozen_s is not None:
            return self.frozen_s
        return 0.0 if self.ends or self.push is not None else FROZEN_S

    @property
    def ends(self) -> bool:
        """Whether the source has an end: a file or a folder of images."""
        return self.is_file or self.images is not None

    @property
    def is_file(self) -> bool:
        """Whether the source is a file on this machine."""
        return self.url is not None and ("://" not in self.url or begins_with_file(self.url))

    @property
    def file_path(self) -> Path:
        """Path of the file, if `is_file`."""
        return path_of(self.url or "")


def path_of(text: str) -> Path:
    """Return the path that `text` names: a file URL, in which `%20` stands for a blank, or the path itself."""
    match = FILE_URL.fullmatch(text)
    return Path(text if match is None else os.fsdecode(unquote_to_bytes(match[1])))


def begins_with_file(url: str) -> bool:
    """Return whether `url` is a URL of a file."""
    return url[:6].lower() == "file:/"
