"""Shed load under overload: measure costs, and apply the load controller's decisions to the feeds."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from typing import Final

from engines.bundle import ModelSpec
from streamclf.classifier.feed import Feed
from streamclf.classifier.load_control import SAMPLE_INTERVAL_S, LoadController, LoadSample, RoundRobin
from streamclf.runtime.jobs import ClassifierLoad

PERIOD_WINDOWS: Final = 4
"""A stream is served for this many windows at a time. It gives no prediction during the first: at most a quarter."""
MIN_PERIOD_S: Final = 4.0
"""Shortest time for which a stream is served, also with short windows."""
SILENT_S: Final = 2.0
"""A stream without a new chunk for this long, or for two chunk lengths, counts as no load."""
LOG_INTERVAL_S: Final = 60.0
"""Shortest interval between two log lines while an overload lasts."""

log = logging.getLogger("classifier")


class LoadShedder:
    """Measure the load of each batch, and lengthen hops or pause feeds if it is too high.

    Times are monotonic seconds. Feeds that capture waits for are left alone.
    """

    def __init__(self, spec: ModelSpec, now_s: float) -> None:
        chunk_s = spec.frames_per_chunk / spec.fps
        self._chunks_per_s = 1 / chunk_s
        self._silent_s = max(SILENT_S, 2 * chunk_s)
        self._controller = LoadController()
        self._rotation = RoundRobin(max(MIN_PERIOD_S, PERIOD_WINDOWS * spec.chunks * chunk_s))
        self._since_s = now_s
        self._busy_s = 0.0
        self.chunk_cost_s = 0.0
        """Time that one chunk took in the last batch; 0 before the first batch."""
        self._needed = 0.0
        """The expected busy share of the time with every stream served and with its own hop."""
        self._window_cost_s: dict[str, float] = {}
        """By model: the time that one window took in the last batch."""
        self._counts: dict[str, tuple[int, int, int]] = {}
        self._chunk_at_s: dict[str, float] = {}
        self._logged = (0, 0)
        """The last (level of the hops, paused streams) that the log reports."""
        self._logged_s = float("-inf")

    def record_encode(self, seconds: float, chunks: int) -> None:
        """Record the encode of one batch. Only the last batch sets the cost, so that a fallen load shows at once."""
        self._busy_s += seconds
        self.chunk_cost_s = seconds / chunks

    def record_windows(self, model: str, seconds: float, windows: int) -> None:
        """Record the time that the windows of one batch took with one model."""
        self._busy_s += seconds
        self._window_cost_s[model] = seconds / windows

    def record_comparison(self, seconds: float) -> None:
        """Record the time that comparisons of pictures with earlier scenes took."""
        self._busy_s += seconds

    @property
    def load(self) -> ClassifierLoad | None:
        """The load, for the supervisor; None before the first batch."""
        if not self.chunk_cost_s:
            return None
        return ClassifierLoad(
            chunk_s=self.chunk_cost_s,
            window_s=dict(self._window_cost_s),
            busy=self._needed,
            is_overloaded=(self._controller.level, self._controller.paused) != (0, 0),
        )

    def forget_model(self, model: str) -> None:
        """Count no costs of a model that does not serve any more."""
        self._window_cost_s.pop(model, None)

    def update(self, feeds: Sequence[Feed], now_s: float) -> None:
        """Once per `SAMPLE_INTERVAL_S`, evaluate the load and apply the decision to `feeds`."""
        span_s = now_s - self._since_s
        if span_s < SAMPLE_INTERVAL_S:
            return
        live = [feed for feed in feeds if not feed.capture_waits]
        counted = self._count(live, now_s)
        sample = LoadSample(
            busy=self._busy_s / span_s, arrived=counted["arrived"], read=counted["read"], dropped=counted["dropped"]
        )
        self._since_s, self._busy_s = now_s, 0.0
        controller = self._controller
        before = (controller.level, controller.paused)
        active = [feed for feed in live if now_s - self._chunk_at_s.get(feed.name, now_s) <= self._silent_s]
        controller.update(
            sample,
            now_s=now_s,
            streams=len(live),
            max_level=max((feed.max_level for feed in live), default=0),
            demand=lambda level, served: self._demand(active, level) * served / max(1, len(live)),
        )
        self._needed = self._demand(active, 0)
        self._log_overload(self._needed, len(live), now_s)
        catch_up = controller.has_reserve and (controller.level, controller.paused) < before
        self._apply(live, now_s, catch_up=catch_up)

    def _demand(self, feeds: Sequence[Feed], level: int) -> float:
        """Return the busy share of the time with all of `feeds` served at `level`, at the last batch's costs."""
        each = (
            feed.encoded_share(level) * self.chunk_cost_s
            + sum(self._window_cost_s.get(model, 0.0) for model in feed.heads) / feed.hop_at(level)
            for feed in feeds
        )
        return self._chunks_per_s * sum(each)

    def _count(self, feeds: Sequence[Feed], now_s: float) -> Counter[str]:
        """Count the served feeds' chunks arrived and read, and chunks and windows dropped, since the last call."""
        total: Counter[str] = Counter()
        counts = {}
        for feed in feeds:
            dropped = sum(feed.drops.values()) - feed.drops["hop"]
            counts[feed.name] = count = (feed.chunks_written, feed.chunks_read, dropped)
            before = self._counts.get(feed.name, count)
            if count[0] > before[0] or feed.name not in self._counts:
                self._chunk_at_s[feed.name] = now_s
            if not feed.paused:
                total.update(arrived=count[0] - before[0], read=count[1] - before[1], dropped=count[2] - before[2])
        self._chunk_at_s = {stream: at_s for stream, at_s in self._chunk_at_s.items() if stream in counts}
        self._counts = counts
        return total

    def _apply(self, feeds: Sequence[Feed], now_s: float, *, catch_up: bool) -> None:
        self._rotation.update([feed.name for feed in feeds], self._controller.paused, now_s)
        for feed in feeds:
            if feed.level != self._controller.level:
                feed.set_level(self._controller.level)
            if feed.name in self._rotation.paused:
                feed.pause()
            elif catch_up:
                feed.catch_up()
            elif feed.paused:
                feed.resume()

    def _log_overload(self, needed: float, streams: int, now_s: float) -> None:
        """Log that an overload begins, changes or is over. While it lasts, once a minute at most: it may last for days.

        `needed` is the expected busy share of the time with every stream served and with its own hop.
        """
        level, paused = self._controller.level, self._controller.paused
        is_over = (level, paused) == (0, 0)
        if (level, paused) == self._logged or (not is_over and now_s - self._logged_s < LOG_INTERVAL_S):
            return
        self._logged, self._logged_s = (level, paused), now_s
        if is_over:
            log.info("the overload is over: every stream is served again, with its own hop")
            return
        parts = [f"{paused} of {streams} streams wait in turn"] if paused else []
        if level:
            parts.append(f"streams with `adaptive` predict {2**level} times less often")
        need = f"{needed:.1f} times what this machine has" if needed > 1 else "more than this machine has at present"
        log.warning("overload: %s: the classifier needs %s", " and ".join(parts), need)
