"""Read one view's ring: choose the next chunk, and drop chunks and windows while the machine cannot keep up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from engines.arrays import U8
from engines.bundle import ModelSpec
from streamclf.classifier.card_memory import CardMemory
from streamclf.classifier.motion_gate import MotionGate
from streamclf.classifier.pending_chunk import PendingChunk
from streamclf.config.classify import HeadSettings, StreamSettings
from streamclf.config.views import UNNAMED
from streamclf.windows.assembler import WindowAssembler
from streamclf.windows.ring import RingReader
from streamclf.windows.ring_progress import ProgressReporter
from streamclf.windows.sampling import ChunkMeta
from streamclf.windows.window_tracker import WindowTracker

if TYPE_CHECKING:
    from engines.group import EngineGroup

MAX_BURST = 4
"""Most chunks of one stream in one batch: other streams wait for the same encode."""
MAX_HELD = 2
"""Most waiting chunks that are held back for a window: more of them would come near `CATCH_UP`."""
CATCH_UP = 4
"""With at most this many waiting chunks, every window is classified; with more, only the newest window."""
RING_MARGIN = 8
"""Ring slots beyond one window, for the chunks that capture writes while a batch runs."""
MAX_HOP_WINDOWS = 4
"""An adaptive hop grows to this many windows at most: then a quarter of the chunks is encoded."""
MIN_MAX_HOP = 8
"""An adaptive hop may always grow to this many chunks, also with windows of one chunk."""
GOLDEN = 0x9E3779B1
"""Its multiples are spread evenly over 32 bits (Knuth, The Art of Computer Programming, 6.4)."""
ONE_HEAD: Final[Mapping[str, HeadSettings]] = MappingProxyType({UNNAMED: HeadSettings()})
"""The model without a name, without actions."""


def bank_slots(spec: ModelSpec) -> int:
    """Return the bank slots of one stream: one window, and a burst that must not overwrite it."""
    return spec.chunks + MAX_BURST - 1


def ring_slots(spec: ModelSpec) -> int:
    """Return the ring slots of one stream."""
    return spec.chunks + RING_MARGIN


class Feed:
    """The reading side of one view's ring, which all models of the view share.

    Under overload, a feed that is late by a whole window drops its waiting chunks and continues with the newest one, in
    a new run of chunks. `drops` counts dropped chunks and windows by cause. A `resumed` feed begins with the chunk that
    capture writes next, because an earlier classifier read the others. With `progress`, capture waits for this feed,
    and the feed drops nothing.
    """

    def __init__(
        self,
        *,
        stream: str,
        reader: RingReader,
        wake_fd: int,
        spec: ModelSpec,
        settings: StreamSettings,
        index: int,
        resumed: bool = False,
        progress: ProgressReporter | None = None,
        name: str | None = None,
        region: str | None = None,
        heads: Mapping[str, HeadSettings] = ONE_HEAD,
        card: CardMemory | None = None,
    ) -> None:
        """`name` is unique in the classifier; it defaults to the stream's. `region` is None for the whole picture."""
        self.name = name or stream
        self.stream = stream
        self.region = region
        self.heads = heads
        """The settings of the models that classify this feed, by name; some of them may not serve yet."""
        self.wake_fd = wake_fd
        self.drops: Counter[str] = Counter()
        self.gated = 0
        """Chunks that reused the feature of an earlier chunk."""
        self.chunks_read = 0
        self.paused = False
        """Whether the feed is not served at present, see `pause`."""
        self.card = card
        """The memory on the engine's GPU that the feed's chunks may be in; None for a stream that no GPU decodes."""
        self._engines: EngineGroup | None = None
        self._reader = reader
        self._chunks = spec.chunks
        self._limit = spec.chunks + RING_MARGIN // 2
        slots = bank_slots(spec)
        self._assembler = WindowAssembler(chunks=spec.chunks, hop=settings.hop, slots=slots, first_slot=index * slots)
        self._configured = WindowTracker(chunks=spec.chunks, hop=settings.hop)
        """Finds the windows that are due with the configured hop, to count the windows that a longer hop omits."""
        self._spread = (index * GOLDEN >> 16) & 0xFFFF
        # Capture starts at the same moment and is ready sooner: the first classifier also reads the waiting chunks.
        self._next = reader.head if resumed and not progress else reader.oldest
        self._unread = self._next
        """The first chunk that was never read; `_next` may be an earlier one."""
        self._progress = progress
        self._burst = 0
        self._gate: MotionGate | None = None
        self.level = 0
        self.settings = settings
        self.configure(settings)

    def configure(self, settings: StreamSettings) -> None:
        """Apply other settings from the next chunk on."""
        self.settings = settings
        if not settings.motion_gate:
            self._gate = None
        elif self._gate is None:
            self._gate = MotionGate(settings.motion_gate)
        else:
            self._gate.threshold = settings.motion_gate
        self._share_memory()
        self._configured.hop = settings.hop
        self.set_level(self.level)

    def use_engines(self, engines: EngineGroup) -> None:
        """Share memory of these engines' GPU with the capture process, if both can use it."""
        self._engines = engines
        self._share_memory()

    def _share_memory(self) -> None:
        """Share memory, unless there is a motion gate: that needs the pixels in the host's memory."""
        if self.card is not None and self._engines is not None:
            self.card.share(None if self._gate is not None else self._engines)

    @property
    def capture_waits(self) -> bool:
        """Whether capture waits for this feed, so that the feed drops nothing."""
        return self._progress is not None

    @property
    def max_level(self) -> int:
        """How many times the hop may be doubled: up to `MAX_HOP_WINDOWS`; 0 if it is not adaptive."""
        if not self.settings.adaptive or self.capture_waits:
            return 0
        return max(0, (max(MIN_MAX_HOP, MAX_HOP_WINDOWS * self._chunks) // self.settings.hop).bit_length() - 1)

    @property
    def hop(self) -> int:
        """Chunks between two predictions at present."""
        return self.hop_at(self.level)

    def set_level(self, level: int) -> None:
        """Make the hop 2^level times as long as configured, or as long as `max_level` allows.

        The windows of a longer hop are a subset of the windows of a shorter hop. Streams that began together get
        different offsets, so that their windows are not all due at once.
        """
        self.level = level
        self._assembler.set_hop(self.hop, self.settings.hop * (self._spread % (self.hop // self.settings.hop)))

    def encoded_share(self, level: int) -> float:
        """Return the share of chunks that are encoded at `level`: chunks between two windows are skipped."""
        return min(1.0, self._chunks / self.hop_at(level))

    def hop_at(self, level: int) -> int:
        """Return the chunks between two predictions at `level`."""
        return self.settings.hop << min(level, self.max_level)

    def pause(self) -> None:
        """Stop encoding, to leave the time to other feeds: until `resume`, keep only the newest window's chunks."""
        self.paused = True

    def resume(self) -> None:
        """End the pause, and continue with the newest chunk."""
        self.paused = False
        self._drop_waiting(1)

    def catch_up(self) -> None:
        """End the pause, and continue with chunks that are still in the ring.

        Call this only with time for as many encodes as a window has chunks. The next window is then complete with a
        waiting chunk or with the next one, instead of only after a window's length of new chunks.
        """
        self.paused = False
        if self._assembler.run < self._chunks - 1:
            first = max(self._reader.head - self._chunks, self._unread - self._chunks + 1)
            self._next = min(self._next, max(self._reader.oldest, first))

    @property
    def chunks_written(self) -> int:
        """Number of chunks that capture has written so far."""
        return self._reader.head

    @property
    def unread(self) -> int:
        """Number of chunks in the ring that were never read, including chunks that wait while the feed is paused."""
        return self._reader.head - self._unread

    @property
    def waiting(self) -> int:
        """Number of chunks in the ring that the feed still has to read; 0 while it is paused."""
        return 0 if self.paused else self._reader.head - self._next

    def due_s(self, max_held: int) -> float | None:
        """Return when the chunk to encode next was captured (monotonic seconds); None while there is none.

        Up to `max_held` chunks that complete no window may wait, to be encoded together with a later chunk.
        """
        waiting = self.waiting
        if waiting <= 0:
            return None
        ahead = 1 if self.capture_waits else min(self._assembler.chunks_until_window(), max_held, MAX_HELD)
        if waiting < ahead:
            return None
        captured_ns = self._reader.captured_ns(self._next + ahead - 1)
        return 0.0 if captured_ns is None else captured_ns / 1e9  # overwritten already: due at once

    @property
    def is_late(self) -> bool:
        """Whether so many chunks wait that the feed drops windows to catch up."""
        return not self._progress and self.waiting > CATCH_UP

    def begin_batch(self) -> None:
        """Begin a new batch, to which this feed may add up to `MAX_BURST` chunks."""
        self._burst = 0
        if self.paused:
            self._drop_waiting(self._chunks)

    def _drop_waiting(self, keep: int) -> None:
        """Drop all waiting chunks but the newest `keep`."""
        first = self._reader.head - keep
        self.drops["overload"] += max(0, first - max(self._next, self._unread))
        self._next = max(self._next, first)
        self._unread = max(self._next, self._unread)

    def read_chunk(self, out: U8, row: int = 0) -> PendingChunk | None:
        """Copy the next waiting chunk, (t, H, W, 3), into `out`; None if no chunk waits or the burst is used up.

        A chunk on the engine's GPU goes into `row` of the engine's next batch there instead.
        """
        if self._burst == MAX_BURST:
            return None
        while (waiting := self.waiting) > 0:
            if waiting > self._limit and not self._progress:
                self._drop_waiting(1)
                waiting = 1
            card = self._reader.card(self._next)
            meta = self._fetch(card, row) if card else self._reader.read(self._next, out)
            is_new = self._next >= self._unread
            self._next += 1
            self._unread = max(self._next, self._unread)
            if self._progress:
                self._progress.read_up_to(self._next)
            if meta is None:
                self.drops["overrun"] += is_new
                continue
            self.chunks_read += is_new
            due = is_new and self._configured.push(meta.segment, meta.index) is not None
            if not self._assembler.needs(meta):
                self._assembler.skip()
                self._count_omitted(due)
                continue
            self._burst += 1
            return self._place(meta, None if card else out, due, late=waiting > CATCH_UP and not self._progress)
        return None

    def _fetch(self, card: int, row: int) -> ChunkMeta | None:
        """Copy the next chunk from the GPU's memory; None if it is not whole, or in memory that is no longer shared."""
        memory = self.card
        if memory is None or memory.number != card:
            return None
        return self._reader.fetch(self._next, lambda slot: memory.fetch(slot, row))

    def _place(self, meta: ChunkMeta, chunk: U8 | None, due: bool, *, late: bool) -> PendingChunk:
        """Assign a slot. `chunk` is None if its pixels are on the GPU."""
        reused = self._gate is not None and chunk is not None and self._gate.is_unchanged(chunk)
        self.gated += reused
        slot, window = self._assembler.place(meta, reused=reused)
        if window and late:
            self.drops["window"] += 1
            window = None
        elif not window:
            self._count_omitted(due)
        return PendingChunk(
            feed=self.name,
            slot=slot,
            window=window,
            dropped=dict(+self.drops) if window else {},
            reused=reused,
            on_card=chunk is None,
            gated=self.gated,
            hop=self.hop if self.settings.adaptive and not self.capture_waits else None,
            features=(self._assembler.encoded, window.slots.tobytes()) if window and self._gate else None,
        )

    def _count_omitted(self, due: bool) -> None:
        """Count a window that is `due` with the configured hop and that the present, longer hop omits."""
        if due:
            self.drops["hop"] += 1

    def drop_if_stale(self, pending: PendingChunk, now_ns: int) -> PendingChunk | None:
        """Return `pending` if its window is to be classified at `now_ns` (CLOCK_MONOTONIC), else None.

        A window older than `max_staleness_ms` is counted as dropped.
        """
        window, limit_ms = pending.window, self.settings.max_staleness_ms
        if window is None:
            return None
        if limit_ms is not None and not self._progress and now_ns - window.captured_ns > limit_ms * 1e6:
            self.drops["outdated"] += 1
            return None
        outdated = self.drops["outdated"]
        return replace(pending, dropped={**pending.dropped, "outdated": outdated}) if outdated else pending
