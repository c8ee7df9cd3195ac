"""Descriptions of streams fit into statuses that every consumer can read, however many views and labels there are."""

from __future__ import annotations

from typing import Any

import orjson

from streamclf.events.kinds import MAX_EVENT_BYTES
from streamclf.events.types import check_event, parse_event
from streamclf.events.views import MAX_LISTED_ACTIONS, MAX_VIEWS, ViewDescription
from streamclf.supervisor.stream_descriptions import MAX_ACTIONS_BYTES, _with_listed_actions


def views_with(labels: list[str]) -> list[ViewDescription]:
    return [
        ViewDescription(
            region=f"{number:064}", model_name="m" * 64, area=(0.123456, 0.1, 0.9, 0.999999), actions=tuple(labels)
        )
        for number in range(MAX_VIEWS)
    ]


def test_a_status_with_the_most_views_and_labels_can_be_read() -> None:
    labels = [f"{number:03}" + "x" * 253 for number in range(MAX_LISTED_ACTIONS)]
    views = _with_listed_actions(views_with(labels), set(labels))
    status: dict[str, Any] = {
        "v": 1, "type": "status", "stream": "s" * 64, "epoch": "0" * 32, "offset": 1, "previous": 0,
        "time": "2026-01-02T03:04:05.678901Z", "state": "live", "actions": [],
        "views": [view.to_json() for view in views],
    }  # fmt: skip
    payload = orjson.dumps(status)
    assert len(payload) < MAX_EVENT_BYTES
    check_event(orjson.loads(payload))
    parse_event(payload)
    assert len(views) == MAX_VIEWS
    assert 0 < sum(len(label) for view in views for label in view.actions) <= MAX_ACTIONS_BYTES


def test_usual_views_list_all_their_actions_that_the_stream_lists() -> None:
    views = _with_listed_actions(views_with(["wave", "covered", "left out"]), {"wave", "covered"})
    assert {view.actions for view in views} == {("wave", "covered")}
