"""Describe the streams and their views for the hub, which adds the descriptions to the statuses of the streams."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from itertools import accumulate
from typing import Final

import orjson

from streamclf.events.views import MAX_LISTED_ACTIONS, ViewDescription
from streamclf.runtime.jobs import StreamDescription
from streamclf.supervisor.checked_config import CheckedConfig
from streamclf.supervisor.stream_plan import heads_of

MAX_ACTIONS_BYTES: Final = 8 * 1024
"""Bytes of JSON of the actions of one status: 400 streams have to fit into one message to the hub."""


def describe_streams(checked: CheckedConfig) -> dict[str, StreamDescription]:
    """Return the description of each stream for the hub. Actions beyond the limits of a status are left out."""
    return {name: _describe(checked, name) for name in checked.config.streams}


def _describe(checked: CheckedConfig, stream: str) -> StreamDescription:
    views = [
        ViewDescription(
            region=view.region,
            model_name=model or None,
            area=view.area.region,
            actions=tuple(head.actions.labels)[:MAX_LISTED_ACTIONS],
        )
        for view in checked.config.views_of(stream)
        for model, head in heads_of(view, checked.bundles).items()
    ]
    labels = _fitting(dict.fromkeys(label for view in views for label in view.actions))
    is_plain = all((view.region, view.model_name, view.area) == (None, None, None) for view in views)
    return StreamDescription(
        name=checked.config.streams[stream].name,
        actions=labels,
        views=() if is_plain else _with_listed_actions(views, set(labels)),
    )


def _with_listed_actions(views: Iterable[ViewDescription], labels: set[str]) -> tuple[ViewDescription, ...]:
    """Leave out the actions that the stream's list leaves out, too, and those beyond the limit of all views together.

    Each view repeats its labels, and a status that is too large could not be read.
    """
    listed, room = [], MAX_ACTIONS_BYTES
    for view in views:
        actions = []
        for label in view.actions:
            size = len(orjson.dumps(label)) + 1
            if label in labels and size <= room:
                actions.append(label)
                room -= size
        listed.append(replace(view, actions=tuple(actions)))
    return tuple(listed)


def _fitting(labels: Iterable[str]) -> tuple[str, ...]:
    sizes = accumulate(len(orjson.dumps(label)) + 1 for label in labels)
    fitting = [label for label, size in zip(labels, sizes, strict=True) if size <= MAX_ACTIONS_BYTES]
    return tuple(fitting[:MAX_LISTED_ACTIONS])
