"""Keep the least certain moments of each day as examples without a label, so that somebody can label them.

It runs in the page: the page receives every prediction, and can save. Per stream and day it keeps at most `uncertain`
films. A less certain moment replaces the most certain one of its day. Times are those of the system's clock, which may
be set back: a time in the future never makes anything wait.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from streamclf.config.examples import ExamplesConfig
from streamclf.errors import BusError, ClipError, UsageError
from streamclf.events.example_request import ExampleRequest
from streamclf.events.types import Prediction, Received, Status
from streamclf.runtime.file_lock import open_locked
from streamclf.subscribers.web.teach.library import ExampleFilm, ExampleLibrary
from streamclf.subscribers.web.teach.service import TeachService

log = logging.getLogger(__name__)

APART_S: Final = 60.0
"""Least time between two moments of a stream that are kept."""
MAX_MARGIN: Final = 0.5
"""A prediction with a larger margin is certain."""
SETTLE_S: Final = 3.0
"""A moment is saved when no less certain one has come for this long."""
MIN_FILM_S: Final = 2.0
LOCK_NAME: Final = ".uncertain.lock"
EXPIRE_S: Final = 600.0
FAULT_PAUSE_S: Final = 60.0
_STEP_S: Final = 1.0
_MAX_STREAMS: Final = 1024


@dataclass(frozen=True, slots=True)
class Moment:
    """A prediction that is not certain, with the wall-clock time at which its window ended."""

    prediction: Prediction
    margin: float
    ended_s: float


def margin_of(prediction: Prediction) -> float:
    """Return how certain a prediction is, from 0 (two labels are equally probable) to 1.

    With labels that exclude each other, it is the difference of the two most probable ones. With labels that can apply
    together, it is twice the distance of the least certain label from 0.5.
    """
    top = [probability for _, probability in prediction.top]
    if prediction.labels is not None:
        return min(1.0, min(abs(2 * probability - 1) for probability in top))
    return top[0] - top[1] if len(top) > 1 else abs(2 * top[0] - 1)


class UncertainKeeper:
    """Choose moments in the thread of the events, and save them in a thread of its own."""

    def __init__(self, teach: TeachService, wall_s: Callable[[], float] = time.time) -> None:
        self._teach, self._wall_s = teach, wall_s
        self._lock = threading.Lock()
        self._best: dict[str, Moment] = {}
        """The least certain moment of each stream that is not saved yet."""
        self._kept_s: dict[str, float] = {}
        """When the last moment of a stream was kept."""
        self._states: dict[str, str] = {}
        self._gated: dict[tuple[str, str | None, str | None], int] = {}
        self._limit = 0
        self._stop = threading.Event()
        self._lock_fd: int | None = None
        self._expire_due_s = 0.0
        self._paused_until_s = 0.0
        self._thread = threading.Thread(target=self._run, name="uncertain", daemon=True)

    def __enter__(self) -> UncertainKeeper:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(5.0)
        if self._lock_fd is not None:
            os.close(self._lock_fd)

    def notice(self, event: Received) -> None:
        """Consider one event; never waits."""
        if isinstance(event, Status):
            self._states[event.stream] = event.state
        if not self._limit or not isinstance(event, Prediction):
            return
        feed = (event.stream, event.region, event.model_name)
        gated, self._gated[feed] = self._gated.get(feed, 0), event.gated
        if event.gated > gated or self._states.get(event.stream, "live") != "live":
            return  # nothing has changed in the picture
        margin = margin_of(event)
        if margin > MAX_MARGIN:
            return
        now_s = self._wall_s()
        with self._lock:
            best = self._best.get(event.stream)
            is_free = not 0 <= now_s - self._kept_s.get(event.stream, -APART_S) < APART_S
            if is_free and (best is None or margin < best.margin) and len(self._best) < _MAX_STREAMS:
                self._best[event.stream] = Moment(event, margin, now_s)

    def step(self) -> None:
        """Save the moments that are due. Called once a second by the thread."""
        config = self._section()
        self._limit = 0 if config is None else config.uncertain
        if config is None:
            return
        library = self._teach.library()
        if time.monotonic() >= self._expire_due_s:
            self._expire_due_s = time.monotonic() + EXPIRE_S
            library.expire(keep_unlabelled_s=config.keep_uncertain)
        if not self._limit or not self._is_owner(config):
            return
        now_s = self._wall_s()
        if 0 < self._paused_until_s - now_s <= FAULT_PAUSE_S:
            return
        with self._lock:
            due = [each for each in self._best.values() if not 0 <= now_s - each.ended_s < SETTLE_S]
            before = {each.prediction.stream: self._kept_s.get(each.prediction.stream) for each in due}
            for moment in due:
                stream = moment.prediction.stream
                del self._best[stream]
                self._kept_s[stream] = moment.ended_s  # already now: saving takes seconds, and events go on meanwhile
        for moment in due:
            if not self._save(moment, library, self._limit, config):
                self._free(moment.prediction.stream, before[moment.prediction.stream])

    def _save(self, moment: Moment, library: ExampleLibrary, limit: int, config: ExamplesConfig) -> bool:
        """Save a moment as a film, unless the day has less certain ones. Returns whether it is kept."""
        stream, prediction = moment.prediction.stream, moment.prediction
        of_day = [each for each in library.unlabelled() if _is_of(each, stream, moment.ended_s)]
        worst = max(of_day, key=lambda each: each.margin, default=None)
        if worst is not None and len(of_day) >= limit and worst.margin <= moment.margin:
            return False
        seconds = max(MIN_FILM_S, prediction.window.end_s - prediction.window.start_s)
        request = ExampleRequest(
            stream=stream, begin=moment.ended_s - min(seconds, config.last_s), end=moment.ended_s,
            region=prediction.region, model_name=prediction.model_name, top=prediction.top[:8], margin=moment.margin,
        )  # fmt: skip
        try:
            self._teach.save(request)
        except (BusError, ClipError, UsageError) as error:
            self._paused_until_s = self._wall_s() + FAULT_PAUSE_S
            log.warning("an uncertain moment was not kept: %s", error)
            return False
        for each in sorted(of_day, key=lambda each: each.margin, reverse=True)[: max(0, len(of_day) + 1 - limit)]:
            with contextlib.suppress(ClipError):
                library.remove_unlabelled(each.file)
        return True

    def _free(self, stream: str, kept_s: float | None) -> None:
        """Restore when the last moment of a stream was kept, after a moment that was not."""
        with self._lock:
            if kept_s is None:
                self._kept_s.pop(stream, None)
            else:
                self._kept_s[stream] = kept_s

    def _section(self) -> ExamplesConfig | None:
        try:
            return self._teach.config()[1]
        except UsageError:
            return None

    def _is_owner(self, config: ExamplesConfig) -> bool:
        """Return whether this page, and no other one, keeps the moments of this folder."""
        if self._lock_fd is None:
            with contextlib.suppress(OSError):  # the first save reports a folder that cannot be written
                config.folder.mkdir(exist_ok=True)
                self._lock_fd = open_locked(config.folder / LOCK_NAME)
        return self._lock_fd is not None

    def _run(self) -> None:
        while not self._stop.wait(_STEP_S):
            self._guarded_step()

    def _guarded_step(self) -> None:
        try:
            self.step()
        except Exception:  # a fault here must not end the page
            log.exception("unexpected fault while uncertain moments were kept")
            self._paused_until_s = self._wall_s() + FAULT_PAUSE_S


def _is_of(example: ExampleFilm, stream: str, at_s: float) -> bool:
    """Return whether an example is of this stream and of the same day, by the clock of this machine."""
    day = datetime.fromtimestamp(at_s).date()
    return (
        example.info is not None
        and example.info.stream == stream
        and (datetime.fromtimestamp(example.began_s).date() == day)
    )
