"""A classifier under overload: measures what things cost, and has its feeds do what the governor decides."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from typing import Final

from engines.bundle import ModelSpec
from streamclf.classifier.feed import Feed
from streamclf.classifier.load_control import LOOK_S, LoadController, LoadSample, RoundRobin

TURN_WINDOWS: Final = 4
"""A turn begins with a window for which nothing is to be had yet: a quarter of it at most."""
LEAST_TURN_S: Final = 4.0
SILENT_S: Final = 2.0
"""A stream that has brought nothing for this long, or for two of its chunks, takes no time."""
SAID_EVERY_S: Final = 60.0

log = logging.getLogger("classifier")


class Overload:
    """Called with each batch; times are monotonic seconds. Feeds that capture waits for have no part in it."""

    def __init__(self, spec: ModelSpec, now_s: float) -> None:
        chunk_s = spec.frames_per_chunk / spec.fps
        self._chunks_per_s = 1 / chunk_s
        self._silent_s = max(SILENT_S, 2 * chunk_s)
        self._governor = LoadController()
        self._turns = RoundRobin(max(LEAST_TURN_S, TURN_WINDOWS * spec.chunks * chunk_s))
        self._since_s = now_s
        self._busy_s = 0.0
        self.chunk_cost_s = 0.0
        """Of one chunk in the last batch; 0 before the first."""
        self._window_cost_s = 0.0
        self._counts: dict[str, tuple[int, int, int]] = {}
        self._heard_s: dict[str, float] = {}
        self._said_s = float("-inf")

    def worked(self, encode_s: float, chunks: int, head_s: float, windows: int) -> None:
        """A batch took so long. What a chunk costs is taken from the last batch: that is how a fallen load shows."""
        self._busy_s += encode_s + head_s
        self.chunk_cost_s = encode_s / chunks
        if windows:
            self._window_cost_s = head_s / windows

    def look(self, feeds: Sequence[Feed], now_s: float) -> None:
        """Judge the load if it is time to; lengthen or shorten hops, let streams rest or be served."""
        span_s = now_s - self._since_s
        if span_s < LOOK_S:
            return
        live = [feed for feed in feeds if not feed.awaited]
        counted = self._counted(live, now_s)
        look = LoadSample(
            busy=self._busy_s / span_s, arrived=counted["arrived"], taken=counted["taken"], lost=counted["lost"]
        )
        self._since_s, self._busy_s = now_s, 0.0
        governor = self._governor
        before = (governor.level, governor.resting)
        speaking = [feed for feed in live if now_s - self._heard_s.get(feed.stream, now_s) <= self._silent_s]
        changed = governor.judge(
            look,
            now_s=now_s,
            streams=len(live),
            top_level=max((feed.top_level for feed in live), default=0),
            demand=lambda level, served: self._demand(speaking, level) * served / max(1, len(live)),
        )
        if changed:
            self._say(before, look, now_s)
        at_once = governor.ample and (governor.level, governor.resting) < before
        self._apply(live, now_s, at_once=at_once)

    def _demand(self, feeds: Sequence[Feed], level: int) -> float:
        """Share of its time that all of `feeds` would take at `level`, by what the last batch cost."""
        each = (feed.encodes(level) * self.chunk_cost_s + self._window_cost_s / feed.hop_at(level) for feed in feeds)
        return self._chunks_per_s * sum(each)

    def _counted(self, feeds: Sequence[Feed], now_s: float) -> Counter[str]:
        """Chunks arrived and taken, chunks and windows lost, of the feeds that are served, since it was asked last."""
        total: Counter[str] = Counter()
        counts = {}
        for feed in feeds:
            lost = sum(feed.drops.values()) - feed.drops["hop"]
            counts[feed.stream] = now = (feed.arrived, feed.taken, lost)
            then = self._counts.get(feed.stream, now)
            if now[0] > then[0] or feed.stream not in self._counts:
                self._heard_s[feed.stream] = now_s
            if not feed.resting:
                total.update(arrived=now[0] - then[0], taken=now[1] - then[1], lost=now[2] - then[2])
        self._heard_s = {stream: at_s for stream, at_s in self._heard_s.items() if stream in counts}
        self._counts = counts
        return total

    def _apply(self, feeds: Sequence[Feed], now_s: float, *, at_once: bool) -> None:
        self._turns.deal([feed.stream for feed in feeds], self._governor.resting, now_s)
        for feed in feeds:
            if feed.level != self._governor.level:
                feed.lengthen(self._governor.level)
            if feed.stream in self._turns.resting:
                feed.rest()
            elif at_once:
                feed.catch_up()
            elif feed.resting:
                feed.resume()

    def _say(self, before: tuple[int, int], look: LoadSample, now_s: float) -> None:
        """The first change and the last one at once, those between now and then: an overload may last for days."""
        level, resting = self._governor.level, self._governor.resting
        if now_s - self._said_s < SAID_EVERY_S and (level, resting) != (0, 0):
            return
        self._said_s = now_s
        log.info(
            "%.0f %% busy, %d of %d chunks taken: hops times %d (before %d), %d streams rest (before %d)",
            100 * look.busy,
            look.taken,
            look.arrived,
            2**level,
            2 ** before[0],
            resting,
            before[1],
        )
