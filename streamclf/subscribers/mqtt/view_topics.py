"""Name the topics and the entities of the views of a stream. The view without names has those of earlier versions.

    PREFIX/STREAM/label                                  the whole picture, and the model without a name
    PREFIX/STREAM/region/REGION/label
    PREFIX/STREAM/model/MODEL/label
    PREFIX/STREAM/region/REGION/model/MODEL/label        in the same way `active/LABEL` and `event`

The levels `region` and `model` keep a region named `active` from meaning the actions of the whole picture. Names of
streams, regions and models hold no character that has a meaning in topics.
"""

from __future__ import annotations

import hashlib
import re
from typing import Final

import orjson

from streamclf.events.views import UNNAMED, ActionKey, ViewKey

_OUTSIDE_TOPIC: Final = re.compile(r"[^A-Za-z0-9_-]")
_LIKE_A_HASH: Final = re.compile(r"_[0-9a-f]{7}\Z")
_MAX_NAMES_CHARS: Final = 64


def view_base(base: str, view: ViewKey) -> str:
    """Return the beginning of the topics of a view; `base` is PREFIX/STREAM."""
    region = "" if view.region is None else f"/region/{view.region}"
    model = "" if view.model_name is None else f"/model/{view.model_name}"
    return f"{base}{region}{model}"


def label_topic(base: str, view: ViewKey) -> str:
    """Return the topic of a view's latest label."""
    return f"{view_base(base, view)}/label"


def event_topic(base: str, view: ViewKey) -> str:
    """Return the topic of the starts and ends of a view's actions, for an event entity."""
    return f"{view_base(base, view)}/event"


def action_topic(base: str, action: ActionKey) -> str:
    """Return the topic that says whether an action runs."""
    return f"{view_base(base, action.view)}/active/{slug(action.label)}"


def entity_of(view: ViewKey, entity: str) -> str:
    """Return the last part of an entity's unique id, which is also one level of a topic.

    Seven digits of a hash distinguish region `a_b` from region `a` with model `b`, and no other id begins with `view_`.
    """
    if view == UNNAMED:
        return entity
    digits = hashlib.sha256(orjson.dumps(list(view))).hexdigest()[:7]
    return f"view_{digits}_{'_'.join(view.names)[:_MAX_NAMES_CHARS]}_{entity}"


def entity_name(view: ViewKey, name: str) -> str:
    """Return the name of an entity for people; Home Assistant shows it after the name of the stream."""
    return " ".join((*view.names, name))


def slug(label: str) -> str:
    """Convert `label` to one level of a topic. A changed label gets seven digits of its hash to stay unique.

    So does a label that ends like such a hash: it could be the slug of another label.
    """
    plain = _OUTSIDE_TOPIC.sub("_", label)
    if plain == label and len(label) <= 64 and not _LIKE_A_HASH.search(label):
        return label
    return f"{plain[:56]}_{hashlib.sha256(label.encode(errors='surrogatepass')).hexdigest()[:7]}"
