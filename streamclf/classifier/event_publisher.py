"""Publish what the models find: predictions, and the actions that follow from them, of each feed with each model."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from engines.arrays import F32
from streamclf.classifier.action_tracker import ActionChange, ActionTracker
from streamclf.classifier.feed import Feed
from streamclf.classifier.pending_chunk import PendingChunk
from streamclf.classifier.prediction import media_s, prediction_body
from streamclf.events.drafts import Draft
from streamclf.events.views import ViewKey, view_keys

if TYPE_CHECKING:
    from engines.group import EngineGroup
    from engines.protocol import Engine
    from streamclf.producer.link import EventProducer


class EventPublisher:
    """Keep an `ActionTracker` for each feed and model, and post their events.

    `publish` collects events until `flush`, so that those of a batch travel and are committed together.
    """

    def __init__(self, producer: EventProducer) -> None:
        self._producer = producer
        self._drafts: list[Draft] = []
        """Events that wait for `flush`."""
        self._trackers: dict[tuple[Feed, str], ActionTracker] = {}

    def configure(self, feed: Feed, group: EngineGroup) -> None:
        """Track the actions of `feed` with those of its models that `group` serves, by its present settings.

        Running actions continue. Those of a model that no longer classifies the feed end with `stopped`.
        """
        served = {model: settings.actions for model, settings in feed.heads.items() if model in group}
        self._close(lambda key: key[0] is feed and key[1] not in served)
        for model, actions in served.items():
            if tracker := self._trackers.get((feed, model)):
                self._collect(feed, model, tracker.reconfigure(actions))
            else:
                self._trackers[feed, model] = ActionTracker.of(actions)
        self.flush()

    def publish(
        self,
        feed: Feed,
        model: str,
        engine: Engine,
        pending: PendingChunk,
        probabilities: F32,
        latency_ms: dict[str, float],
        scene_lost: float | None = None,
    ) -> None:
        """Collect the prediction of one window, and the changes of actions that follow from it.

        `scene_lost`: see `ActionTracker.update`.
        """
        window, spec = pending.window, engine.spec
        assert window is not None  # only windows are classified
        engine_name = engine.description.partition(",")[0]
        view = _view(feed, model)
        body = prediction_body(spec, engine_name, pending, window, probabilities, latency_ms, view, scene_lost)
        self._drafts.append(Draft(type="prediction", stream=feed.stream, body=body, captured_ns=window.captured_ns))
        tracker = self._trackers.get((feed, model))
        if tracker is not None and tracker.config:
            by_label = dict(zip(spec.labels, probabilities.tolist(), strict=True))
            start_s, end_s = media_s(window.start_pts_ns), media_s(window.end_pts_ns)
            changes = tracker.update(by_label, start_s, end_s, window.segment, time.time(), scene_lost)
            self._collect(feed, model, changes, window.captured_ns)

    def tracker(self, feed: Feed, model: str) -> ActionTracker | None:
        """Return the tracker of a feed with one of its models, if there is one."""
        return self._trackers.get((feed, model))

    def flush(self) -> None:
        """Post the collected events."""
        if self._drafts:
            drafts, self._drafts = self._drafts, []
            self._producer.post_all(drafts)

    def end_scheduled(self) -> None:
        """End the actions whose hours are over, also of feeds without new chunks."""
        for (feed, model), tracker in self._trackers.items():
            self._collect(feed, model, tracker.end_outside_hours(time.time()))
        self.flush()

    def close_feed(self, feed: Feed) -> None:
        """End the actions of a feed that is not served any more."""
        self._close(lambda key: key[0] is feed)

    def close(self) -> None:
        """End all actions, because the service stops."""
        self._close(lambda _: True)

    def _close(self, is_over: Callable[[tuple[Feed, str]], bool]) -> None:
        for feed, model in [key for key in self._trackers if is_over(key)]:
            self._collect(feed, model, self._trackers.pop((feed, model)).close("stopped"))
        self.flush()

    def _collect(self, feed: Feed, model: str, changes: Sequence[ActionChange], captured_ns: int | None = None) -> None:
        for change in changes:
            body = change.body() | view_keys(_view(feed, model))
            self._drafts.append(Draft(type="action", stream=feed.stream, body=body, captured_ns=captured_ns))


def _view(feed: Feed, model: str) -> ViewKey:
    return ViewKey(feed.region, model or None)
