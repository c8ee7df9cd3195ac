"""Make the JSON of messages about labels and actions. Those of a named view have `region` and `model_name`."""

from __future__ import annotations

from typing import Any, Final

import orjson

from streamclf.events.types import Action, Prediction
from streamclf.events.views import ActionKey, view_keys
from streamclf.subscribers.mqtt.discovery import event_type
from streamclf.subscribers.mqtt.message import origin

NO_LABEL: Final = "none"
"""The label of a model that can report several labels, and reports none now."""


def label_text(prediction: Prediction) -> str:
    """Return the labels that apply, in one order, so that their text changes only with them."""
    if prediction.labels is None:
        return prediction.top[0][0]
    return ", ".join(sorted(prediction.labels)) or NO_LABEL


def label_payload(prediction: Prediction) -> bytes:
    """Return the payload of a new label."""
    labels = {} if prediction.labels is None else {"labels": prediction.labels}
    body = {"label": label_text(prediction), "probability": prediction.top[0][1], **labels, "model": prediction.model}
    return orjson.dumps(body | view_keys(prediction) | origin(prediction))


def off_payload(action: ActionKey) -> bytes:
    """Return the payload of an action that has not happened."""
    return orjson.dumps({"state": "OFF", "label": action.label, **view_keys(action)})


def switch_payload(action: Action) -> bytes:
    """Return the payload that switches an action on or off."""
    return orjson.dumps({"state": "OFF" if action.phase == "end" else "ON", **_facts(action)})


def event_payload(action: Action) -> bytes:
    """Return the payload of an event entity for the start or the end of an action."""
    return orjson.dumps({"event_type": event_type(action.label), "phase": action.phase, **_facts(action)})


def _facts(action: Action) -> dict[str, Any]:
    facts = {
        "label": action.label, "probability": action.probability, "peak": action.peak,
        "started_s": action.started_s, "at_s": action.at_s,
    }  # fmt: skip
    return facts | view_keys(action) | origin(action)
