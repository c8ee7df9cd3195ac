"""Read a video file: at its own rate or as fast as it decodes, once or in a loop."""

from __future__ import annotations

import contextlib
import os
import stat
import threading
import time
from collections.abc import Generator, Iterator
from pathlib import Path

from streamclf.config.source_settings import DeviceName
from streamclf.errors import SourceError
from streamclf.sources.av_container import AvContainer
from streamclf.sources.av_opening import ASSUMED_FPS
from streamclf.sources.cut_off_files import asf_duration_ns, cut_off_reason
from streamclf.sources.decoded_frame import DecodedFrame
from streamclf.sources.decoding import EXACT, WantedDecoding
from streamclf.sources.frame import Frame, Source, SourceInfo
from streamclf.sources.frame_skipping import FrameSelector, ShiftedFrameSelector
from streamclf.sources.hw_decode import HardwareError, choose_device
from streamclf.sources.joined_files import MAX_PARTS, Part, following_part, joined_parts
from streamclf.sources.long_pictures import with_long_pictures
from streamclf.sources.pacing import RealtimePacer
from streamclf.sources.packet_tap import PacketSink
from streamclf.sources.resize import FrameRenderer
from streamclf.units import NS


class FileSource(Source):
    """The frames of the file `path`; media time begins at 0 and increases strictly.

    A picture lasts until the next one: a long one is repeated.

    `realtime`: return each frame at its time, as a camera would. `loop`: at the end begin again, with a
    `discontinuity`.
    """

    live = False

    def __init__(
        self,
        path: Path,
        *,
        realtime: bool = False,
        loop: bool = False,
        device: DeviceName = "cpu",
        stop: threading.Event | None = None,
    ) -> None:
        check_file(path)
        self._path = path
        self._loop = loop
        self._stop = stop or threading.Event()
        self._pacer = RealtimePacer(self._stop) if realtime else None
        self._device = device
        self._selector: FrameSelector | None = None
        self._decoding = EXACT
        self._sink: PacketSink | None = None
        self._render = FrameRenderer()
        self._index = 0
        self._parts = joined_parts(path)
        self._undecodable = 0  # in earlier parts
        self._part = self._parts[0]
        self._container = self._open(self._part)
        self._frames = self._read()

    def __next__(self) -> Frame:
        return next(self._frames)

    @property
    def info(self) -> SourceInfo:
        """Codec, size and nominal rate."""
        return self._container.info

    @property
    def undecodable(self) -> int:  # type: ignore[override]
        """Number of packets of this run through the file that could not be decoded."""
        return self._undecodable + self._container.undecodable

    @property
    def read_bytes(self) -> int:  # type: ignore[override]
        """See `Source`."""
        return self._part.start + self._container.reader.last_byte

    @property
    def time_offset_ns(self) -> int | None:  # type: ignore[override]
        """See `Source`. A file that joins films has no single offset."""
        return self._container.times.offset_ns if len(self._parts) == 1 else None

    def set_frame_selector(self, selector: FrameSelector) -> None:
        """See `Source`."""
        self._selector = selector

    def set_decoding(self, wanted: WantedDecoding) -> None:
        """See `Source`."""
        self._decoding = wanted
        self._container.set_decoding(wanted)

    def set_packet_sink(self, sink: PacketSink) -> None:
        """See `Source`."""
        self._sink = sink
        self._container.set_packet_sink(sink)

    def close(self) -> None:
        """Close the file."""
        # The generator refers to this object: without an end of it, only the garbage collector would free the decoder.
        with contextlib.suppress(ValueError):  # another thread reads
            self._frames.close()
        self._container.close()

    def _open(self, part: Part) -> AvContainer:
        is_whole = len(self._parts) == 1
        try:
            # Without a whitelist, a playlist with the name of an .mp4 file could make FFmpeg fetch any URL.
            container = AvContainer(
                f"file:{self._path}" if is_whole else f"subfile,,start,{part.start},end,{part.end},,:file:{self._path}",
                shown=str(self._path),
                options={"protocol_whitelist": "file,crypto,data" if is_whole else "subfile,file,crypto,data"},
                hardware=choose_device(self._device),
            )
            container.set_decoding(self._decoding)
            if self._sink is not None:
                container.set_packet_sink(self._sink)
            return container
        except SourceError:
            if (reason := cut_off_reason(self._path, part)) is not None:
                raise SourceError(f"{self._path}: {reason}") from None
            raise

    def _read(self) -> Generator[Frame, None, None]:
        yield from self._run(first_run=True)
        while self._loop and not self._stop.is_set():
            self._container.close()
            check_file(self._path)
            self._parts = joined_parts(self._path)
            self._undecodable = 0
            self._container = self._open(self._parts[0])  # opened again, because not every format can seek
            yield from self._run(first_run=False)

    def _decoded_frames(self) -> Iterator[DecodedFrame]:
        """Iterate over the frames of all parts of the file; media time goes on."""
        start_ns = 0
        for number, part in enumerate(self._parts):
            try:
                self._part = part
                if number > 0:
                    self._container.close()
                    undecodable = self._container.undecodable
                    self._container = self._open(part)
                    self._undecodable += undecodable
                for frame in self._part_frames(part, start_ns):
                    assert frame.pts_ns is not None  # a film's frames have their times
                    yield frame if number == 0 else frame._replace(pts_ns=frame.pts_ns + start_ns)
            except SourceError as error:
                if number == 0:
                    raise
                self.warning = f"{error} (part {number + 1} of {len(self._parts)} films that the file joins)"
                continue
            start_ns += self._container.times.end_ns
            if self._stop.is_set():
                return
            if number + 1 == len(self._parts) and (following := self._following_part(part)) is not None:
                self._parts[-1:] = [Part(part.start, following.start), following]
            elif (fault := self._fault(part)) is not None:
                self.warning = f"{self._path}: {fault}"

    def _following_part(self, part: Part) -> Part | None:
        """Return the film after `part`, in formats where only reading `part` to its end shows that there is one."""
        last = self._container.reader.last_byte
        if not last or len(self._parts) >= MAX_PARTS:
            return None
        return following_part(self._path, self._container.format_name, part.start + last)

    def _fault(self, part: Part) -> str | None:
        """Return why the part that was read to its end is not whole; None if it is."""
        read_s = self._container.times.end_ns / NS
        reason = cut_off_reason(self._path, part)
        declared_ns = asf_duration_ns(self._path, part)
        shortfall = self._container.times.shortfall_s(declared_ns, is_cut_off=reason is not None)
        if shortfall is not None:
            return (
                f"cut short: it declares {shortfall[0]:.1f} s, {shortfall[1]:.1f} s of it could be read; copy or "
                "record it again"
            )
        if self._container.reader.is_broken_off:
            return f"FFmpeg cannot read on after {read_s:.1f} s, because the data is invalid; copy or record it again"
        if reason is not None:
            return f"{reason} ({read_s:.1f} s of it could be read)"
        if (count := self._container.undecodable) > 0:
            packets = "1 packet" if count == 1 else f"{count} packets"
            return f"damaged: {packets} could not be decoded; copy or record it again"
        return None

    def _part_frames(self, part: Part, start_ns: int) -> Iterator[DecodedFrame]:
        while True:
            if self._selector is not None:
                shifted = ShiftedFrameSelector(self._selector)
                shifted.shift_ns = start_ns
                self._container.set_frame_selector(shifted)
            try:
                yield from with_long_pictures(self._container.frames())
                return
            except HardwareError:  # before the first frame
                self._container.close()
                self._container = self._open(part)

    def _run(self, *, first_run: bool) -> Iterator[Frame]:
        interval_ns = round(NS / (self._container.info.fps or ASSUMED_FPS))
        is_first = True
        for decoded in self._decoded_frames():
            assert decoded.pts_ns is not None  # a film's frames have their times
            if self._pacer is not None:
                self._pacer.wait(decoded.pts_ns, interval_ns, restart=is_first)
            if self._stop.is_set():
                return
            yield self._frame(decoded, decoded.pts_ns, begins=is_first, discontinuity=is_first and not first_run)
            is_first = False

    def _frame(self, decoded: DecodedFrame, pts_ns: int, *, begins: bool, discontinuity: bool) -> Frame:
        self._index += 1
        return Frame(
            index=self._index - 1,
            pts_ns=pts_ns,
            captured_ns=time.monotonic_ns(),
            width=decoded.width,
            height=decoded.height,
            corrupt=decoded.corrupt,
            broken=decoded.broken,
            discontinuity=discontinuity,
            continues=not begins,
            repeated=decoded.repeated,
            stamp_ns=decoded.stamp_ns,
            decoding=decoded.decoding,
            image=decoded.oriented,
            render=self._render,
        )


def is_animated_webp(path: Path) -> bool:
    """Return whether `path` is an animated WebP image, which FFmpeg does not read. Raises `SourceError`."""
    check_file(path)
    with path.open("rb") as file:
        head = file.read(21)
    # https://developers.google.com/speed/webp/docs/riff_container: the second bit of the flags is "animation".
    return head[:4] == b"RIFF" and head[8:16] == b"WEBPVP8X" and len(head) == 21 and bool(head[20] & 2)


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
        raise SourceError(f"{path}: cannot be read; check its permissions")
