"""Render sampled frames into chunks, in place; shared by the live service, offline classification and training."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np

from engines.arrays import U8
from streamclf.config.picture_area import WHOLE, PictureArea
from streamclf.sources.frame import Frame, Source
from streamclf.sources.resize import Resize
from streamclf.windows.sampling import ChunkMeta, ChunkSampler, FramePlacement

if TYPE_CHECKING:
    from streamclf.windows.card_slots import CardChunk, CardSlots


class ChunkSink(Protocol):
    """The destination of chunks, for instance `streamclf.windows.ring.RingWriter`."""

    def begin(self) -> U8:
        """Return the next chunk's memory, (t, H, W, 3) uint8 RGB. A second call abandons the chunk begun before."""

    def commit(self, chunk: ChunkMeta) -> int:
        """Declare the chunk begun last complete. Returns its number."""


class ChunkBuilder:
    """Pass every frame to the sampler, and render the sampled frames straight into the sink's memory."""

    def __init__(
        self,
        sampler: ChunkSampler,
        sink: ChunkSink,
        *,
        height: int,
        width: int,
        resize: Resize,
        area: PictureArea = WHOLE,
        card: CardSlots | None = None,
    ) -> None:
        """`card`: slots of a GPU's memory for the chunks of `sink`, which is then their ring."""
        self._sampler = sampler
        self._sink = sink
        self._card = card
        self._card_chunk: CardChunk | None = None
        self._height, self._width, self._resize = height, width, resize
        self._area = area
        self._previous: Frame | None = None
        self._pixels: U8 | None = None
        self._held: tuple[Any, U8] | None = None

    def set_area(self, area: PictureArea) -> None:
        """From the next frame on, show another part of each frame. That frame should begin a new segment."""
        self._area, self._held = area, None

    def push(self, frame: Frame, *, discontinuity: bool = False) -> int:
        """Sample and render the next frame. Returns the number of chunks that it completes."""
        return self.render(self.sample(frame, discontinuity=discontinuity))

    def sample(self, frame: Frame, *, discontinuity: bool = False) -> Sequence[tuple[FramePlacement, Frame]]:
        """Sample the next frame. Returns the placements for `render`; for most frames there are none."""
        is_new = discontinuity or frame.discontinuity
        continues, previous = frame.continues, self._previous
        if previous is not None and previous.image is None:
            is_new = is_new or self._sampler.peek(frame.pts_ns, continues=continues).previous > 0
        # The sampler had answered that it does not need a skipped frame. If it needs the frame now, after a stall or
        # damage, the frame counts as lost.
        if frame.image is None and self._sampler.peek(frame.pts_ns, discontinuity=is_new, continues=continues).current:
            return ()
        placements = self._sampler.push(
            frame.pts_ns,
            frame.captured_ns,
            corrupt=frame.corrupt,
            broken=frame.broken,
            discontinuity=is_new,
            continues=continues,
            repeated=frame.repeated,
            fast=frame.decoding == "fast",
        )
        # Of two frames with the same time the sampler keeps the first. Keeping the frame costs nothing, because it is
        # not yet converted to RGB.
        if previous is None or is_new or frame.pts_ns != previous.pts_ns:
            self._previous = frame
        if not placements:
            return ()
        chosen = []
        for placement in placements:
            assert previous is not None or not placement.previous  # the sampler has received it
            chosen.append((placement, previous if previous is not None and placement.previous else frame))
        return chosen

    def render(self, placements: Sequence[tuple[FramePlacement, Frame]]) -> int:
        """Render frames into their chunks. Returns the number of chunks that this completes."""
        completed = 0
        for placement, frame in placements:
            if placement.position == 0 or self._pixels is None:
                self._pixels = self._sink.begin()
                self._card_chunk = None
                if self._card is not None and placement.position == 0:
                    self._card_chunk = self._card.begin(frame, self._resize, self._area)
            if self._card_chunk is None or not self._render_on_card(placement, frame, self._card_chunk, self._pixels):
                self._render_on_host(placement, frame, self._pixels)
            if placement.chunk is not None:
                if self._card_chunk is None:
                    self._sink.commit(placement.chunk)
                else:
                    self._card_chunk.commit(placement.chunk, self._pixels)
                completed += 1
        return completed

    def _render_on_host(self, placement: FramePlacement, frame: Frame, pixels: U8) -> None:
        if not placement.duplicate:
            self._render(frame, pixels[placement.position])
        elif placement.position > 0:
            pixels[placement.position] = pixels[placement.position - 1]
        else:
            pixels[0] = self._held_pixels(frame)

    def _render_on_card(self, placement: FramePlacement, frame: Frame, chunk: CardChunk, pixels: U8) -> bool:
        """Render a frame on the GPU. If that is not possible, copy the chunk so far to the host, and return False."""
        position = placement.position
        if chunk.repeat(position) if placement.duplicate and position else chunk.add(frame, position):
            return True
        chunk.download(pixels[:position])
        self._card_chunk = None
        return False

    def _held_pixels(self, frame: Frame) -> U8:
        """Return a rendered frame that fills several chunks. It is rendered once, however long it is shown."""
        if self._held is None or self._held[0] is not frame.image:
            self._held = (frame.image, self._render(frame))
        return self._held[1]

    def _render(self, frame: Frame, out: U8 | None = None) -> U8:
        return frame.to_rgb(self._height, self._width, self._resize, out=out, area=self._area)


FrameHook: TypeAlias = Callable[[Source, Frame], None]
"""Called with each frame that a source returns, before the frame is sampled."""


def read_chunks(
    source: Source,
    *,
    fps: float,
    frames_per_chunk: int,
    height: int,
    width: int,
    resize: Resize,
    area: PictureArea = WHOLE,
    on_frame: FrameHook | None = None,
) -> Iterator[tuple[ChunkMeta, U8]]:
    """Iterate over all chunks of `source`, each with its own (t, H, W, 3) uint8 RGB array."""
    sink = ListSink((frames_per_chunk, height, width, 3))
    sampler = ChunkSampler(fps, frames_per_chunk)
    builder = ChunkBuilder(sampler, sink, height=height, width=width, resize=resize, area=area)
    source.set_frame_selector(sampler)
    for frame in source:
        if on_frame is not None:
            on_frame(source, frame)
        builder.push(frame)
        yield from sink.pop_all()


class ListSink:
    """Keep committed chunks in a list until `pop_all`."""

    def __init__(self, shape: tuple[int, int, int, int]) -> None:
        self._shape = shape
        self._pixels = np.empty(shape, np.uint8)
        self._chunks: list[tuple[ChunkMeta, U8]] = []

    def begin(self) -> U8:
        """See `ChunkSink`."""
        self._pixels = np.empty(self._shape, np.uint8)
        return self._pixels

    def commit(self, chunk: ChunkMeta) -> int:
        """See `ChunkSink`."""
        self._chunks.append((chunk, self._pixels))
        return len(self._chunks) - 1

    def pop_all(self) -> list[tuple[ChunkMeta, U8]]:
        """Return the chunks since the last call, each with its own (t, H, W, 3) uint8 RGB array."""
        chunks, self._chunks = self._chunks, []
        return chunks
