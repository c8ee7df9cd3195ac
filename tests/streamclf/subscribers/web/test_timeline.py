from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from support.hub_process import HubProcess, prediction, wait_until

from streamclf.client.subscription import subscribe
from streamclf.events.types import Heartbeat, Prediction, Window
from streamclf.events.views import UNNAMED, ViewKey
from streamclf.net.curve_client import resolve_service_address
from streamclf.producer.link import EventProducer
from streamclf.subscribers.web import timeline as timeline_module
from streamclf.subscribers.web.timeline import MAX_LABELS, STEP_S, TimelineReader, reduce_predictions

BEGIN = datetime(2026, 1, 1, tzinfo=timezone.utc)


def made(at_s: float, *top: tuple[str, float]) -> Prediction:
    common: dict[str, Any] = {"epoch": "0" * 32, "offset": 1, "previous": 0, "model": "m@1"}
    window = Window(start_s=0, end_s=1, frames=1)
    return Prediction(stream="door", time=BEGIN + timedelta(seconds=at_s), window=window, top=top, **common)


def test_a_point_shows_the_highest_probability_of_its_time() -> None:
    found = reduce_predictions(
        [
            made(0, ("a", 0.7), ("b", 0.3)),
            made(1, ("b", 0.9), ("a", 0.1)),
            made(STEP_S, ("a", 1.0)),
        ],
        is_complete=True,
    )
    assert found.times == [1000 * BEGIN.timestamp(), 1000 * (BEGIN.timestamp() + STEP_S)]
    assert {each.label: each.values for each in found.series} == {"a": [0.7, 1.0], "b": [0.9, None]}
    assert found.complete


def test_the_labels_are_those_with_the_highest_sums() -> None:
    top = tuple((f"label {number}", (number + 1) / 100) for number in range(40))
    found = reduce_predictions([made(0, *top)], is_complete=False)
    assert [each.label for each in found.series] == [f"label {number}" for number in range(39, 39 - MAX_LABELS, -1)]
    assert reduce_predictions([], is_complete=True).times == []


def test_the_last_hour_of_one_stream_is_read_from_the_journal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timeline_module, "_STRETCH", 30)  # several stretches
    with HubProcess() as hub:
        producer = EventProducer(hub.link, "test")
        for number in range(100):
            producer.post(prediction("door" if number % 2 else "gate", number, top=[["wave", number / 100]]))
        for number, view in enumerate(({"region": "gate"}, {"region": "gate", "model_name": "hands"}), 1):
            producer.post(prediction("door", top=[["wave", 1.0], [f"only {number}", 0.5]], **view))
        with subscribe(hub.events, types=["heartbeat"]) as events:
            last: list[Heartbeat] = []

            def all_there() -> bool:
                event = events.receive(0.1)
                if isinstance(event, Heartbeat):
                    last[:] = [event]
                return bool(last) and last[0].head >= 102

            wait_until(all_there, "all events in the journal")
        producer.close(5.0)
        reader = TimelineReader(resolve_service_address(hub.events))
        found = reader.read("door", UNNAMED, last[0])
        assert found.complete
        assert [each.label for each in found.series] == ["wave"]
        assert max(value for value in found.series[0].values if value is not None) == 0.99
        assert reader.read("nobody", UNNAMED, last[0]).times == []
        assert reader.read("door", UNNAMED, last[0]) is found
        for number, view in enumerate((ViewKey("gate"), ViewKey("gate", "hands")), 1):
            of_view = reader.read("door", view, last[0])
            assert [each.label for each in of_view.series] == ["wave", f"only {number}"]
        assert reader.read("door", ViewKey("yard"), last[0]).series == []
