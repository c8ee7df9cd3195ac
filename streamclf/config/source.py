"""Define where the frames of one stream come from, and how they are read."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from typing import Any, Final, Literal, TypeVar, get_args

from pydantic import Field, field_validator, model_validator

from streamclf.config.section import Section
from streamclf.config.source_settings import (
    FILE_URL,
    FROZEN_S,
    DecodeMode,
    DeviceName,
    SourceSettings,
    begins_with_file,
)
from streamclf.config.units import MemoryLimit
from streamclf.errors import SourceError
from streamclf.net.push_protocol import MIN_SECRET_CHARS, parse_push_address
from streamclf.net.urls import REMEDY, UrlError, split_url

SOURCES = ("camera", "url", "images", "push")
URL_SCHEMES = ("rtsp", "rtsps", "http", "https", "file")
_OR_VARIABLE = "; or put the password into an environment variable and write ${NAME}, which encodes it"
_LIKE_A_SCHEME = re.compile(r"[a-z]{2,12}")

DEVICE_NAMES: Final = tuple(name for name in get_args(DeviceName) if name != "auto")
GPU_DEVICES: Final = frozenset({"auto", "cuda"})
"""The values of `decode_device` with which decoded pictures may be in a GPU's memory."""

SelfT = TypeVar("SelfT", bound="SourceConfig")


class SourceConfig(Section):
    """The source of one stream: a camera, a URL or file, a folder of images, or a program that pushes frames."""

    camera: int | str | None = Field(
        None,
        description="Webcam: index, 0 to 99, path of its device, or a part of its name. Give one of camera, url, "
        "images, push.",
    )
    url: str | None = Field(
        None,
        min_length=1,
        max_length=2048,
        description="URL of a stream (rtsp, rtsps, http, https, HLS too) or path of a video file. A relative path is "
        "relative to the configuration.",
    )
    images: str | None = Field(
        None,
        min_length=1,
        max_length=1024,
        description="Path of a folder of images, read in the order of their names. Needs `fps`.",
    )
    push: str | None = Field(
        None,
        min_length=1,
        max_length=1024,
        description="Address at which a program delivers frames with `streamclf.push`: a name, the path of a Unix "
        "socket, or tcp://127.0.0.1:PORT.",
    )
    push_secret: str | None = Field(
        None,
        max_length=1024,
        description=f"Secret that a pushing program has to know. Required for tcp, with at least {MIN_SECRET_CHARS} "
        "characters.",
    )
    fps: float | None = Field(None, gt=0, le=1000, description="Images per second; for `images` only, and required.")
    transport: Literal["tcp", "udp"] = Field("tcp", description="RTSP only: the transport of the video packets.")
    demuxer: Literal["auto", "rtp", "ffmpeg"] = Field(
        "auto",
        description="RTSP only: the client. `rtp` is the project's own; `ffmpeg` adds a delay of one frame interval; "
        "`auto` uses `rtp` where it supports the stream, else `ffmpeg`.",
    )
    decode: DecodeMode = Field(
        "auto",
        description="How exactly video is decoded. `exact` decodes as the codec's standard says. `fast` leaves out the "
        "loop filters of H.264 and H.265, and decodes Motion JPEG and JPEG files of a folder at a smaller size. `auto` "
        "is `fast` where all models see a much smaller picture than the source and nobody watches a larger preview, "
        "else `exact`.",
    )
    decode_device: DeviceName = Field(
        "cpu",
        description="Files and URLs only: the device that decodes. `auto` uses the first device that opens. Where a "
        "device cannot be used, the CPU decodes. A device always decodes exactly.",
    )
    tls_ca: str | None = Field(
        None,
        max_length=1024,
        description="rtsps and https only: path of a PEM file with the certificates to trust, instead of the system's.",
    )
    tls_verify: bool = Field(
        True, description="rtsps and https only: check the server's certificate. `false` trusts any server."
    )
    pace: Literal["realtime", "fast"] = Field(
        "realtime",
        description="Files and images only: `realtime` plays them by their clock; `fast` reads them as fast as the "
        "classifier can follow.",
    )
    loop: bool = Field(False, description="Files and images only: begin again at the end.")
    open_timeout_s: float = Field(
        5.0, gt=0, le=120, description="Seconds within which a connection has to deliver its first frame."
    )
    read_timeout_s: float = Field(
        2.0,
        gt=0,
        le=120,
        description="Seconds without data after which the connection counts as lost. HLS waits at least 10 s.",
    )
    memory_limit: MemoryLimit = Field(
        "2GB",
        validate_default=True,
        description="Memory of the stream's capture process beyond which it is restarted, at least 200MB. A 4K camera "
        "needs 200 to 300 MB, a film in 8K up to 1.8 GB.",
    )
    frozen_s: float | None = Field(
        None,
        ge=0,
        le=86400,
        description="Seconds of identical frames after which the stream counts as frozen; 0 never. If not set: "
        f"{FROZEN_S:g} for cameras and URLs, 0 for files, images and push.",
    )

    @model_validator(mode="after")
    def _check_one_source(self: SelfT) -> SelfT:
        given = [key for key in SOURCES if getattr(self, key) is not None]
        if len(given) != 1:
            raise ValueError(f"give one of {', '.join(SOURCES)}; {' and '.join(given) or 'none'} was given")
        if isinstance(self.camera, int) and not 0 <= self.camera <= 99:
            raise ValueError(f"camera={self.camera}: 0 to 99")
        if not self.ends and (self.loop or self.pace == "fast"):
            raise ValueError("pace: fast and loop: true are for files and images; a live source has its own clock")
        if self.url is None and self.decode_device != "cpu":
            raise ValueError(f"decode_device: {self.decode_device} is for files and URLs; leave it out")
        if (self.images is None) != (self.fps is None):
            raise ValueError(
                "images and fps go together: a folder of images has no rate of its own, other sources have one"
            )
        self._check_push()
        return self

    def _check_push(self) -> None:
        if self.push is None:
            if self.push_secret is not None:
                raise ValueError("push_secret without push")
            return
        secret = self.push_secret or ""
        if self.push.startswith("tcp:") and len(secret) < MIN_SECRET_CHARS:
            raise ValueError(
                f"push over tcp needs a push_secret of at least {MIN_SECRET_CHARS} characters, like ${{PUSH_SECRET}}"
            )
        try:
            parse_push_address(self.push)
        except SourceError as error:
            raise ValueError(str(error)) from None

    @field_validator("decode", mode="before")
    @classmethod
    def _check_decode(cls, value: Any) -> Any:
        if value in DEVICE_NAMES:
            raise ValueError(f"{value} is a device; write decode_device: {value}")
        return value

    @field_validator("url")
    @classmethod
    def _check_url(cls, url: str | None) -> str | None:
        if url is None:
            return None
        if begins_with_file(url):
            if not FILE_URL.fullmatch(url):
                raise ValueError("a file URL is file:///ABSOLUTE/PATH, without a host; or give the path alone")
            return url
        scheme, colon, rest = url.partition(":")
        scheme = scheme.strip().lower()
        if not rest.startswith("//"):  # the path of a file, or a URL with a mistake
            if colon and rest.startswith("/") and scheme in URL_SCHEMES:
                raise ValueError(f"one slash after {scheme}: where a URL has two; give {scheme}://…")
            if colon and "@" in rest and "/" not in scheme:  # a file: ./10:30@door.mp4
                raise ValueError(
                    f"user and password without a scheme; give a URL like rtsp://…; {REMEDY}{_OR_VARIABLE}. "
                    "A file's path begins with ./ or /"
                )
            return url
        if scheme not in URL_SCHEMES:
            shown = f" {scheme!r}" if _LIKE_A_SCHEME.fullmatch(scheme) else ""
            raise ValueError(f"scheme{shown}: one of {', '.join(URL_SCHEMES)}, or a file's path")
        if any(char < " " or char == "\x7f" for char in url):
            raise ValueError("a line break or control character in the URL; remove it")
        try:
            split_url(url)
        except UrlError as error:
            hint = _OR_VARIABLE if REMEDY in str(error) else ""
            raise ValueError(f"{error}{hint}") from None
        return url

    @property
    def settings(self) -> SourceSettings:
        """The keys of the source alone, for its capture process."""
        return SourceSettings(**{each.name: getattr(self, each.name) for each in fields(SourceSettings)})

    @property
    def ends(self) -> bool:
        """Whether the source has an end: a file or a folder of images."""
        return self.settings.ends

    @property
    def is_file(self) -> bool:
        """Whether the source is a file on this machine."""
        return self.settings.is_file

    @property
    def file_path(self) -> Path:
        """Path of the file, if `is_file`."""
        return self.settings.file_path

    @property
    def is_file_url(self) -> bool:
        """Whether `url` is a URL of a file, which is an absolute path."""
        return begins_with_file(self.url or "")
