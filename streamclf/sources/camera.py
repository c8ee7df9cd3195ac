"""Read webcams through OpenCV: V4L2, AVFoundation and Media Foundation behind one call."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import cv2

from engines.arrays import U8
from streamclf.errors import SourceError
from streamclf.sources.frame import Frame, Source, SourceInfo
from streamclf.sources.resize import render_bgr

SYSFS = Path("/sys/class/video4linux")
LINUX = sys.platform.startswith("linux")


@dataclass(frozen=True, slots=True, kw_only=True)
class Camera:
    """A camera of this machine."""

    index: int
    path: Path
    name: str


class VideoCaptureDevice(Protocol):
    """The part of `cv2.VideoCapture` that we use."""

    def read(self) -> tuple[bool, Any]:
        """Wait for the next frame. Returns (whether there is one, (h, w, 3) uint8 BGR)."""

    def get(self, prop: int) -> float:
        """Return a property; 0 if unknown."""

    def release(self) -> None:
        """Release the device."""


def list_cameras() -> list[Camera]:
    """List the cameras under /dev/video*. Linux only: other systems list no cameras without opening them."""
    cameras = []
    for entry in SYSFS.glob("video*") if SYSFS.is_dir() else ():
        match = re.fullmatch(r"video(\d+)", entry.name)
        path = Path("/dev") / entry.name
        # One camera has several nodes; those after the first carry metadata, not video.
        if match and path.exists() and _text(entry / "index") in ("0", ""):
            cameras.append(Camera(index=int(match[1]), path=path, name=_text(entry / "name") or entry.name))
    return sorted(cameras, key=lambda camera: camera.index)


class CameraSource(Source):
    """The frames of a webcam. Media time is our own clock, because webcams send no reliable time stamps."""

    live = True

    def __init__(
        self,
        camera: int | str,
        *,
        read_timeout_s: float = 2.0,
        stop: threading.Event | None = None,
        device: VideoCaptureDevice | None = None,
    ) -> None:
        """Open the camera with this index, path (/dev/video2) or name, or use `device`, which is already open."""
        self._shown = f"camera {camera}"
        self._stop = stop or threading.Event()
        self._device = device or _open(_resolve(camera), self._shown, read_timeout_s)
        self._info = _info(self._device)
        self._frames = self._read()

    def __next__(self) -> Frame:
        return next(self._frames)

    @property
    def info(self) -> SourceInfo:
        """Codec, size and nominal rate, as the driver reports them."""
        return self._info

    def close(self) -> None:
        """Release the camera."""
        self._device.release()

    def _read(self) -> Iterator[Frame]:
        index = 0
        while not self._stop.is_set():
            try:
                ok, image = self._device.read()
            except cv2.error:
                ok, image = False, None
            captured_ns = time.monotonic_ns()
            if not ok or image is None:
                raise SourceError(_no_frame_message(self._shown, first=index == 0))
            yield self._frame(index, image, captured_ns)
            index += 1

    def _frame(self, index: int, image: U8, captured_ns: int) -> Frame:
        return Frame(
            index=index,
            pts_ns=captured_ns,
            captured_ns=captured_ns,
            width=image.shape[1],
            height=image.shape[0],
            image=image,
            render=render_bgr,
        )


def _no_frame_message(shown: str, *, first: bool) -> str:
    if first:
        return f"{shown}: opened, but sends no frame; is another program using it? Close that one"
    return f"{shown}: sends no more frames; was it unplugged? {_known_cameras()}"


def _resolve(camera: int | str) -> int | str:
    """Return the index or device path for an index, a path or a name. Raises `SourceError`."""
    if isinstance(camera, str) and camera.isdigit():
        camera = int(camera)
    if not LINUX:
        return camera
    if isinstance(camera, str) and not camera.startswith("/"):
        found = next((known for known in list_cameras() if camera.lower() in known.name.lower()), None)
        if found is None:
            raise SourceError(f"camera {camera!r}: no camera of that name. {_known_cameras()}")
        return str(found.path)
    path = Path(f"/dev/video{camera}") if isinstance(camera, int) else Path(camera)
    if not path.exists():
        raise SourceError(f"camera {camera}: {path} does not exist. {_known_cameras()}")
    if not path.is_char_device():
        raise SourceError(f"camera {camera}: {path} is not a camera; give a file's path as url. {_known_cameras()}")
    if not os.access(path, os.R_OK | os.W_OK):
        raise SourceError(f"camera {camera}: {path} cannot be opened; add this user to the group video")
    return str(path)


def _known_cameras() -> str:
    cameras = list_cameras()
    if not cameras:
        return "No camera was found under /dev/video*: plug one in, or give a url" if LINUX else "Try another index"
    return "Cameras here: " + ", ".join(f"{camera.index} ({camera.name})" for camera in cameras)


def _open(camera: int | str, shown: str, read_timeout_s: float) -> VideoCaptureDevice:
    # By default OpenCV waits 10 s for a frame. It has no other way to set the time-out, in whole seconds.
    os.environ["OPENCV_VIDEOIO_V4L_SELECT_TIMEOUT"] = str(max(1, round(read_timeout_s)))
    level = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # our own error is clearer, and one line
    try:
        device = cv2.VideoCapture(camera, cv2.CAP_V4L2 if LINUX else cv2.CAP_ANY)
    except cv2.error:
        raise SourceError(f"{shown}: cannot be opened. {_known_cameras()}") from None
    finally:
        cv2.utils.logging.setLogLevel(level)
    if not device.isOpened():
        device.release()
        if users := _users(camera):
            raise SourceError(f"{shown}: in use by {users}; a camera serves one program at a time, stop that one")
        raise SourceError(f"{shown}: cannot be opened; is another program using it? {_known_cameras()}")
    # USB 2 carries only 5 to 10 uncompressed HD frames per second. Each additional buffer delays by a frame.
    device.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*"MJPG"))
    device.set(cv2.CAP_PROP_BUFFERSIZE, 1)
    return device


def _users(camera: int | str) -> str:
    """Name the other processes that have the device open, if this user may see them; empty if that is unknown."""
    if not isinstance(camera, str) or not LINUX:
        return ""
    device = Path(camera).resolve()
    processes = [path for path in Path("/proc").glob("[0-9]*") if path.name != str(os.getpid())]
    users = [f"{_text(path / 'comm')} (process {path.name})" for path in processes if _has_open(path, device)]
    return ", ".join(sorted(users))


def _has_open(process: Path, device: Path) -> bool:
    with contextlib.suppress(OSError):  # a process of another user, or one that has ended
        for fd in (process / "fd").iterdir():
            with contextlib.suppress(OSError):
                if fd.readlink() == device:
                    return True
    return False


def _info(device: VideoCaptureDevice) -> SourceInfo:
    code = int(device.get(cv2.CAP_PROP_FOURCC))
    codec = "".join(chr(code >> shift & 255) for shift in (0, 8, 16, 24)).strip("\0 ").lower()
    fps = device.get(cv2.CAP_PROP_FPS)
    return SourceInfo(
        codec=codec if codec.isalnum() else "raw",
        width=int(device.get(cv2.CAP_PROP_FRAME_WIDTH)),
        height=int(device.get(cv2.CAP_PROP_FRAME_HEIGHT)),
        fps=fps if 0 < fps < 1000 else None,
    )


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
