"""Define a frame, and the interface of every source of frames."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from engines.arrays import U8
from streamclf.config.picture_area import WHOLE, PictureArea
from streamclf.sources.decoding import Decoding, WantedDecoding
from streamclf.sources.frame_skipping import FrameSelector
from streamclf.sources.packet_tap import PacketSink
from streamclf.sources.picture_part import part_of
from streamclf.sources.resize import OrientedFrame, Resize

if TYPE_CHECKING:
    from typing_extensions import Self


RenderFunction = Callable[[Any, int, int, Resize, U8, PictureArea], None]
"""(decoder's image, height, width, policy, out (height, width, 3) uint8 RGB, area): fill `out`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """One decoded frame, not converted to RGB yet: a frame that sampling does not choose costs no conversion.

    `pts_ns` is media time, `captured_ns` CLOCK_MONOTONIC right after decoding. `wall_ns` is the Unix time of the
    exposure by the camera's own clock (RTCP sender reports); None if the camera does not send it.

    `corrupt`: the image differs from what the camera sent. `broken`: it does so by damage of its own, not only because
    it is predicted from a damaged frame (`streamclf.sources.corruption`). `discontinuity`: time or content does not
    continue the frame before, as when a file begins again. `continues`: the image before lasted until this frame,
    however long that was, as in a film; it is no gap. `repeated`: the image is that of the frame before.

    `width` and `height` are the image's in display orientation, with rotation and pixel shape applied. `image` is None
    for a frame that was not decoded, because the consumer does not need it (`Source.set_frame_selector`); such a frame
    still has its times.

    A frame may be kept for any time. Only one thread at a time may render frames of the same source.

    `decoding` says how exactly it was decoded (`streamclf.sources.decoding`).

    `stamp_ns` is the source's own time stamp, which the packet of the frame has too (`streamclf.sources.packet_tap`).
    """

    index: int
    pts_ns: int
    captured_ns: int
    width: int
    height: int
    corrupt: bool = False
    broken: bool = False
    discontinuity: bool = False
    continues: bool = False
    repeated: bool = False
    wall_ns: int | None = None
    stamp_ns: int | None = None
    decoding: Decoding = "exact"
    image: Any = field(repr=False, compare=False)
    render: RenderFunction = field(repr=False, compare=False)

    @property
    def skipped(self) -> bool:
        """Whether it was not decoded."""
        return self.image is None

    def size_of(self, area: PictureArea) -> tuple[int, int]:
        """Return the (height, width) of the part that `area` selects.

        Raises `RegionTooSmallError` if that has fewer than 16 pixels a side.
        """
        image = self.image
        if isinstance(image, OrientedFrame):
            columns, rows = image.frame.width * image.reduction, image.frame.height * image.reduction
            part = part_of(columns, rows, area, image.orientation, image.pixel_aspect)
        else:
            part = part_of(self.width, self.height, area)
        return part.height, part.width

    def to_rgb(
        self, height: int, width: int, resize: Resize = "stretch", out: U8 | None = None, area: PictureArea = WHOLE
    ) -> U8:
        """Render the image as (height, width, 3) uint8 RGB, into `out` if given (any strides), else a new array.

        `area` selects the part of the image. Raises `RegionTooSmallError` if that has fewer than 16 pixels a side.
        """
        if out is None:
            out = np.empty((height, width, 3), np.uint8)
        elif out.shape != (height, width, 3) or out.dtype != np.uint8:
            raise ValueError(f"out is {out.dtype} {out.shape}: must be uint8 {(height, width, 3)}")
        if self.skipped:
            raise ValueError(f"frame {self.index} was not decoded: the source's frame selector does not need it")
        self.render(self.image, height, width, resize, out, area)
        return out


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceInfo:
    """The current properties of a source; they may change with any frame.

    `fps` is None if it is unknown. `note` describes a limitation of a source that works; None if there is none.
    """

    codec: str
    width: int
    height: int
    fps: float | None
    note: str | None = None
    decoding: Decoding = "exact"
    """How the latest frame was decoded."""


class Source(ABC):
    """An iterator of frames and a context manager. One thread reads it; `close` may be called more than once.

    Iteration ends at the end of a file or after a stop request. Any other end raises `SourceError`, whose message is
    one line without credentials.
    """

    live: bool
    """A live source has no end: one that ends has failed."""
    may_pause: bool = False
    """Whether it may return nothing for longer than `read_timeout_s`: an HLS playlist grows every few seconds."""
    max_stale_s: float | None = None
    """A frame that arrives later than its time stamp by more than this many seconds is stale; None: not known."""
    undecodable: int = 0
    """Number of packets so far that could not be decoded."""
    lost: int = 0
    """Number of packets so far that the network lost, if the source can count them."""
    dropped_by_sender: int = 0
    """Number of frames so far that the sender reports as dropped."""
    warning: str | None = None
    """A fault of a film that shows at its end, in one line: it is shorter than it declares."""
    read_bytes: int = 0
    """Where in its file a film is read; 0 where that is not known."""
    time_offset_ns: int | None = None
    """Media time less time stamp, of the frame returned last; None where its file has no time stamps that say so."""
    stale: int = 0
    """Number of frames so far that the source dropped because a stall had made them old."""

    def __iter__(self) -> Self:
        return self

    @abstractmethod
    def __next__(self) -> Frame:
        """Return the next frame. Raises `StopIteration` at the end and `SourceError` on a fault or time-out."""

    def set_frame_selector(self, selector: FrameSelector) -> None:
        """From now on skip decoding of frames that `selector` does not need, if the codec allows it.

        Such frames are returned as `skipped`. Most sources cannot skip and return every frame decoded.
        """
        return

    def set_packet_sink(self, sink: PacketSink) -> None:
        """From now on hand on the encoded video to `sink`. Most sources have none, and do nothing."""
        return

    def set_decoding(self, wanted: WantedDecoding) -> None:
        """Decode as `wanted` says from now on, or from the next key frame on. Most sources decode exactly only."""
        return

    @property
    @abstractmethod
    def info(self) -> SourceInfo:
        """The properties of the stream, as far as they are known."""

    @abstractmethod
    def close(self) -> None:
        """Release the device, file or connection."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
