"""The values that a source gives, and what every source can do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from engines.arrays import U8
from streamclf.sources.frame_skipping import FrameSelector
from streamclf.sources.resize import Resize

if TYPE_CHECKING:
    from typing_extensions import Self


Render = Callable[[Any, int, int, Resize, U8], None]
"""(decoder's picture, height, width, policy, out (height, width, 3) uint8 RGB): fill `out`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """One decoded picture, not yet converted: frames that sampling does not want cost no conversion.

    `pts_ns` is media time, `captured_ns` CLOCK_MONOTONIC right after decoding. `corrupt`: not what the camera sent;
    `broken`: by damage of its own, not only of one that it is predicted from (`streamclf.sources.corruption`).
    `discontinuity`: time or content does not continue the frame before (the loop of a file). `width` and `height` are
    the picture's as one should see it, rotation and pixel shape applied. A frame may be kept as long as one likes, and
    rendered by one thread at a time as its source. `wall_ns` is the Unix time at which the camera says that it took the
    picture, by its own clock (RTCP sender reports); None where it says nothing. `image` is None for a frame that was
    not decoded, because the frame selector does not need it (`Source.set_frame_selector`); it still has its time.
    """

    index: int
    pts_ns: int
    captured_ns: int
    width: int
    height: int
    corrupt: bool = False
    broken: bool = False
    discontinuity: bool = False
    wall_ns: int | None = None
    image: Any = field(repr=False, compare=False)
    render: Render = field(repr=False, compare=False)

    @property
    def skipped(self) -> bool:
        """Whether it was not decoded."""
        return self.image is None

    def to_rgb(self, height: int, width: int, resize: Resize = "stretch", out: U8 | None = None) -> U8:
        """The picture as (height, width, 3) uint8 RGB, in `out` where given (any strides), else in a new array."""
        if out is None:
            out = np.empty((height, width, 3), np.uint8)
        elif out.shape != (height, width, 3) or out.dtype != np.uint8:
            raise ValueError(f"out is {out.dtype} {out.shape}: must be uint8 {(height, width, 3)}")
        if self.skipped:
            raise ValueError(f"frame {self.index} was not decoded: its reader had promised not to want it")
        self.render(self.image, height, width, resize, out)
        return out


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceInfo:
    """What a source says of itself; it may change with any frame. `fps` is None where nobody knows it. `note`: in what
    it is not as one would like it, though it works; None: in nothing."""

    codec: str
    width: int
    height: int
    fps: float | None
    note: str | None = None


class Source(ABC):
    """An iterator of frames and a context manager. One thread reads; `close` may be called more than once.

    Iteration ends at the end of a file or after a request to stop; anything else that ends it is a `SourceError`
    whose message is one line without credentials.
    """

    live: bool
    """A live source has no end: one that ends has failed."""
    max_stale_s: float | None = None
    """Seconds a frame may arrive later than its time stamp promises, and still count as live; None: no such clock."""
    undecodable: int = 0
    """Packets that could not be decoded, so far."""
    lost: int = 0
    """Packets that the network lost, so far, where the source can tell."""
    dropped_by_sender: int = 0
    """Pictures that the sender says it has dropped, so far."""
    stale: int = 0
    """Pictures that a stall had made old, and that were left out, so far."""

    def __iter__(self) -> Self:
        return self

    @abstractmethod
    def __next__(self) -> Frame:
        """The next frame. Raises `StopIteration` at the end and `SourceError` on a fault or time-out."""

    def set_frame_selector(self, interest: FrameSelector) -> None:
        """From now on leave undecoded, where the codec allows it, what `interest` will not want: such frames are
        `skipped`. Few sources can; the others give all their frames as before."""
        return

    @property
    @abstractmethod
    def info(self) -> SourceInfo:
        """What is known of the stream by now."""

    @abstractmethod
    def close(self) -> None:
        """Give the device, file or connection back."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
