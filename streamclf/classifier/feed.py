"""One stream as the classifier sees it: which chunk is next, and what is given up when the machine can't keep up."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

from engines.arrays import U8
from engines.bundle import ModelSpec
from streamclf.classifier.motion_gate import MotionGate
from streamclf.runtime.jobs import StreamSettings
from streamclf.windows.assembler import Window, WindowAssembler
from streamclf.windows.ring import RingReader
from streamclf.windows.ring_progress import ProgressReporter
from streamclf.windows.sampling import ChunkMeta, WindowTracker

BURST = 4
"""Chunks of one stream in one batch, at most: others wait for the same encode."""
HELD = 2
"""Waiting chunks beyond which none is held back any more: `CATCH_UP` is not far."""
CATCH_UP = 4
"""Waiting chunks up to which every window is still classified; beyond, only the newest one is worth its cost."""
RING_MARGIN = 8
"""Ring slots beyond one window: what capture may write while a batch runs."""
LONGEST = 4
"""Windows to which an adaptive hop may grow: then a quarter of the chunks is encoded."""
LEAST_LONGEST = 8
"""Chunks to which it may grow with windows of one chunk, say."""
GOLDEN = 0x9E3779B1
"""Multiples of it are spread evenly over 32 bits (Knuth, The Art of Computer Programming, 6.4)."""


def bank_slots(spec: ModelSpec) -> int:
    """Bank slots of one stream: one window, and room for a burst that must not overwrite it."""
    return spec.chunks + BURST - 1


def ring_slots(spec: ModelSpec) -> int:
    """Ring slots of one stream."""
    return spec.chunks + RING_MARGIN


Features = tuple[int, bytes]
"""Tells the features of a stream's window from those of its others: chunks encoded by then, and the window's slots."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pending:
    """A chunk copied into the batch, the window that it completes, if any, and what the feed had dropped by then.

    `reused`: the slot holds its feature already, and the batch need not hold it. `hop`: where it is adaptive.
    `features`, and `gated` (chunks reused so far): where there is a motion gate.
    """

    stream: str
    slot: int
    window: Window | None
    dropped: dict[str, int]
    reused: bool = False
    gated: int = 0
    hop: int | None = None
    features: Features | None = None


class Feed:
    """The reading side of one stream's ring.

    Overload: real time wins. A feed that has fallen behind by a whole window gives up what waits and goes on with
    the newest chunk, in a new run of chunks; `drops` counts each chunk and window lost, by cause. A `resumed` feed
    begins with what capture writes next: an earlier classifier has had the rest. With `progress`, capture waits for
    this feed, and nothing is given up.
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
    ) -> None:
        self.stream = stream
        self.wake_fd = wake_fd
        self.drops: Counter[str] = Counter()
        self.gated = 0
        """Chunks whose feature was that of an earlier one."""
        self.taken = 0
        """Chunks read."""
        self.resting = False
        """Not served for the moment, see `rest`."""
        self._reader = reader
        self._chunks = spec.chunks
        self._limit = spec.chunks + RING_MARGIN // 2
        slots = bank_slots(spec)
        self._assembler = WindowAssembler(chunks=spec.chunks, hop=settings.hop, slots=slots, first_slot=index * slots)
        self._promised = WindowTracker(chunks=spec.chunks, hop=settings.hop)
        self._spread = (index * GOLDEN >> 16) & 0xFFFF
        # Capture starts at the same moment and is ready sooner: the first one takes what waits already.
        self._next = reader.head if resumed and not progress else reader.oldest
        self._unread = self._next
        """The first chunk that has never been read; `_next` may be one before it."""
        self._progress = progress
        self._burst = 0
        self._gate: MotionGate | None = None
        self.level = 0
        self._settings = settings
        self.configure(settings)

    def configure(self, settings: StreamSettings) -> None:
        """Go on with these from the next chunk on."""
        self._settings = settings
        if not settings.motion_gate:
            self._gate = None
        elif self._gate is None:
            self._gate = MotionGate(settings.motion_gate)
        else:
            self._gate.threshold = settings.motion_gate
        self._promised.hop = settings.hop
        self.lengthen(self.level)

    @property
    def awaited(self) -> bool:
        """Whether capture waits for this feed: it has all the time that it needs, and loses nothing."""
        return self._progress is not None

    @property
    def top_level(self) -> int:
        """How many times the hop may be doubled: up to `LONGEST` windows; 0 where it is not to be."""
        if not self._settings.adaptive or self.awaited:
            return 0
        return max(0, (max(LEAST_LONGEST, LONGEST * self._chunks) // self._settings.hop).bit_length() - 1)

    @property
    def hop(self) -> int:
        """Chunks between two predictions now."""
        return self.hop_at(self.level)

    def lengthen(self, level: int) -> None:
        """Make the hop 2^level times as long as it is configured, or as `top_level` allows. Each raster is part of the
        shorter one, and streams that began together are spread over it: their windows are not all due at once."""
        self.level = level
        self._assembler.set_hop(self.hop, self._settings.hop * (self._spread % (self.hop // self._settings.hop)))

    def encodes(self, level: int) -> float:
        """Share of the chunks that have to be encoded at `level`: what lies between two windows need not be."""
        return min(1.0, self._chunks / self.hop_at(level))

    def hop_at(self, level: int) -> int:
        """Chunks between two predictions at `level`."""
        return self._settings.hop << min(level, self.top_level)

    def rest(self) -> None:
        """Give others the time: until `resume` what waits is given up, all but the chunks of one window."""
        self.resting = True

    def resume(self) -> None:
        """Be served again, beginning with the newest chunk."""
        self.resting = False
        self._give_up(1)

    def catch_up(self) -> None:
        """There is time for as many encodes as a window has chunks: complete one with a chunk that waits, or the next
        one, of those that are still in the ring, where it would otherwise take a window's length of new ones."""
        self.resting = False
        if self._assembler.run < self._chunks - 1:
            first = max(self._reader.head - self._chunks, self._unread - self._chunks + 1)
            self._next = min(self._next, max(self._reader.oldest, first))

    @property
    def arrived(self) -> int:
        """Chunks that capture has written in all."""
        return self._reader.head

    @property
    def waiting(self) -> int:
        """Chunks in the ring that are to be taken."""
        return 0 if self.resting else self._reader.head - self._next

    def due_s(self, hold: int) -> float | None:
        """When what is to be encoded now was captured (monotonic seconds); None while nothing is.

        A chunk that completes no window may wait for the next one, to be encoded with it: up to `hold` chunks may.
        """
        waiting = self.waiting
        if waiting <= 0:
            return None
        ahead = 1 if self.awaited else min(self._assembler.chunks_until_window(), hold, HELD)
        if waiting < ahead:
            return None
        captured_ns = self._reader.captured_ns(self._next + ahead - 1)
        return 0.0 if captured_ns is None else captured_ns / 1e9  # overrun: the sooner the better

    @property
    def is_late(self) -> bool:
        """Whether so much waits that windows are given up, so that it catches up; `awaited` feeds have the time."""
        return not self._progress and self.waiting > CATCH_UP

    def begin_batch(self) -> None:
        """A new batch: this feed may fill up to `BURST` places of it."""
        self._burst = 0
        if self.resting:
            self._give_up(self._chunks)

    def _give_up(self, keep: int) -> None:
        """Let go of all that waits but the newest `keep`."""
        first = self._reader.head - keep
        self.drops["overload"] += max(0, first - max(self._next, self._unread))
        self._next = max(self._next, first)
        self._unread = max(self._next, self._unread)

    def take(self, out: U8) -> Pending | None:
        """Copy the next waiting chunk, (t, H, W, 3), into `out`; None when none waits or the burst is used up."""
        if self._burst == BURST:
            return None
        while (waiting := self.waiting) > 0:
            if waiting > self._limit and not self._progress:
                self._give_up(1)
                waiting = 1
            meta = self._reader.read(self._next, out)
            is_new = self._next >= self._unread
            self._next += 1
            self._unread = max(self._next, self._unread)
            if self._progress:
                self._progress.read_up_to(self._next)
            if meta is None:
                self.drops["overrun"] += is_new
                continue
            self.taken += is_new
            promised = is_new and self._promised.push(meta.segment, meta.index) is not None
            if not self._assembler.needs(meta):
                self._assembler.skip()
                self._skip(promised)
                continue
            self._burst += 1
            return self._place(meta, out, promised, late=waiting > CATCH_UP and not self._progress)
        return None

    def _place(self, meta: ChunkMeta, chunk: U8, promised: bool, *, late: bool) -> Pending:
        reused = self._gate is not None and self._gate.unchanged(chunk)
        self.gated += reused
        slot, window = self._assembler.place(meta, reused=reused)
        if window and late:
            self.drops["window"] += 1
            window = None
        elif not window:
            self._skip(promised)
        return Pending(
            stream=self.stream,
            slot=slot,
            window=window,
            dropped=dict(+self.drops) if window else {},
            reused=reused,
            gated=self.gated,
            hop=self.hop if self._settings.adaptive and not self.awaited else None,
            features=(self._assembler.encoded, window.slots.tobytes()) if window and self._gate else None,
        )

    def _skip(self, promised: bool) -> None:
        """A chunk that completes no window, though in the configured raster it may."""
        if promised:
            self.drops["hop"] += 1

    def in_time(self, pending: Pending, now_ns: int) -> Pending | None:
        """What is to be classified at `now_ns` (CLOCK_MONOTONIC): nothing, and counted, if the window is too old."""
        window, limit_ms = pending.window, self._settings.max_staleness_ms
        if window is None:
            return None
        if limit_ms is not None and not self._progress and now_ns - window.captured_ns > limit_ms * 1e6:
            self.drops["outdated"] += 1
            return None
        outdated = self.drops["outdated"]
        return replace(pending, dropped={**pending.dropped, "outdated": outdated}) if outdated else pending
