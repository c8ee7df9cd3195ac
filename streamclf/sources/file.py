"""A video file: by its own clock or as fast as it decodes, once or over and over."""

from __future__ import annotations

import os
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from streamclf.errors import SourceError
from streamclf.sources.av_container import NS, AvContainer
from streamclf.sources.decoded_frame import DecodedFrame
from streamclf.sources.frame import Frame, Source, SourceInfo
from streamclf.sources.frame_skipping import FrameSelector, ShiftedFrameSelector
from streamclf.sources.hw_decode import Decode, HardwareError, choose_device
from streamclf.sources.resize import FrameRenderer

ASSUMED_FPS = 25.0
"""For a file whose pictures carry no time stamps and that does not tell its rate, as FFmpeg assumes too."""
BEHIND_NS = NS // 2
"""Further behind its clock than this, a film goes on from now instead of rushing after it."""


class FileSource(Source):
    """Frames of the file `path`; media time begins at 0.

    `realtime`: each frame at its time, as a camera would give it. `loop`: at the end begin again, with a
    `discontinuity`.
    """

    live = False

    def __init__(
        self,
        path: Path,
        *,
        realtime: bool = False,
        loop: bool = False,
        decode: Decode = "cpu",
        stop: threading.Event | None = None,
    ) -> None:
        check_file(path)
        self._path = path
        self._loop = loop
        self._stop = stop or threading.Event()
        self._pace = RealtimePacer(self._stop) if realtime else None
        self._decode = decode
        self._interest: ShiftedFrameSelector | None = None
        self._render = FrameRenderer()
        self._index = 0
        self._container = self._open()
        self._frames = self._read()

    def __next__(self) -> Frame:
        return next(self._frames)

    @property
    def info(self) -> SourceInfo:
        """Codec, size and nominal rate."""
        return self._container.info

    @property
    def undecodable(self) -> int:  # type: ignore[override]
        """Packets of this run through the file that could not be decoded."""
        return self._container.undecodable

    def set_frame_selector(self, interest: FrameSelector) -> None:
        """See `Source`."""
        self._interest = ShiftedFrameSelector(interest)

    def close(self) -> None:
        """Close the file."""
        self._container.close()

    def _open(self) -> AvContainer:
        # Without a whitelist, a playlist that somebody names .mp4 could have any URL fetched.
        return AvContainer(
            f"file:{self._path}",
            shown=str(self._path),
            options={"protocol_whitelist": "file,crypto,data"},
            hardware=choose_device(self._decode),
        )

    def _read(self) -> Iterator[Frame]:
        yield from self._run(first_run=True)
        while self._loop and not self._stop.is_set():
            self._container.close()
            check_file(self._path)
            self._container = self._open()  # by opening anew: not every format can seek
            yield from self._run(first_run=False)

    def _pictures(self) -> Iterator[DecodedFrame]:
        while True:
            if self._interest is not None:
                self._interest.shift_ns = -self._container.start_ns
                self._container.set_frame_selector(self._interest)
            try:
                yield from self._container.pictures()
                return
            except HardwareError:  # before the first picture
                self._container.close()
                self._container = self._open()

    def _run(self, *, first_run: bool) -> Iterator[Frame]:
        info = self._container.info
        interval_ns = round(NS / (info.fps or ASSUMED_FPS))
        start_ns = self._container.start_ns
        pts_ns: int | None = None
        for picture in self._pictures():
            is_first = pts_ns is None
            if picture.pts_ns is not None:
                pts_ns = picture.pts_ns - start_ns
            else:
                pts_ns = 0 if pts_ns is None else pts_ns + interval_ns
            if self._pace is not None:
                self._pace.wait(pts_ns, interval_ns, restart=is_first)
            if self._stop.is_set():
                return
            yield self._frame(picture, pts_ns, discontinuity=is_first and not first_run)

    def _frame(self, picture: DecodedFrame, pts_ns: int, *, discontinuity: bool) -> Frame:
        self._index += 1
        return Frame(
            index=self._index - 1,
            pts_ns=pts_ns,
            captured_ns=time.monotonic_ns(),
            width=picture.width,
            height=picture.height,
            corrupt=picture.corrupt,
            broken=picture.broken,
            discontinuity=discontinuity,
            image=picture.oriented,
            render=self._render,
        )


class RealtimePacer:
    """Holds each frame until its time has come on the monotonic clock."""

    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop
        self._offset_ns: int | None = None
        self._last_due_ns = 0
        self._last_pts_ns = 0

    def wait(self, pts_ns: int, interval_ns: int, *, restart: bool) -> None:
        """Return when the frame at `pts_ns` is due, or with the request to stop."""
        now_ns = time.monotonic_ns()
        if self._offset_ns is None:
            self._offset_ns = now_ns - pts_ns
        elif restart or pts_ns < self._last_pts_ns:
            self._offset_ns = self._last_due_ns + interval_ns - pts_ns
        due_ns = self._offset_ns + pts_ns
        if now_ns - due_ns > BEHIND_NS:
            self._offset_ns, due_ns = now_ns - pts_ns, now_ns
        self._last_due_ns, self._last_pts_ns = due_ns, pts_ns
        if due_ns > now_ns:
            self._stop.wait((due_ns - now_ns) / NS)


def check_file(path: Path) -> None:
    """Raise `SourceError` with the remedy for a path that cannot be a video."""
    try:
        status = path.stat()
    except (OSError, ValueError) as error:
        reason = (
            "no such file" if isinstance(error, FileNotFoundError) else getattr(error, "strerror", None) or str(error)
        )
        raise SourceError(f"{path}: {reason}; check the path") from None
    if stat.S_ISDIR(status.st_mode):
        raise SourceError(f"{path}: a directory; give the path of one video file")
    if not stat.S_ISREG(status.st_mode):
        raise SourceError(f"{path}: not a regular file; give the path of a video file")
    if status.st_size == 0:
        raise SourceError(f"{path}: an empty file (0 bytes); copy or record it again")
    if not os.access(path, os.R_OK):
        raise SourceError(f"{path}: may not be read; check its permissions")
