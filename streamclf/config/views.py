"""Define the views of a stream: the parts of the picture that models classify, each with its own settings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from streamclf.config.actions import SCENE_LOST, UNKNOWN, ActionConfig, StreamActions
from streamclf.config.classify import StreamSettings
from streamclf.config.picture_area import PictureArea

UNNAMED: Final = ""
"""Name of the model of the top-level key `model`. Its events name no model."""
MODEL_KEY: Final = "model"
"""The name that lists of models and keys of actions have for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamView:
    """One region of a stream, or the whole picture, and the models that classify it."""

    region: str | None
    """Name of the region; None for a stream without named regions."""
    area: PictureArea
    models: tuple[str, ...]
    """Names of models; `UNNAMED` is that of the top-level `model`."""
    settings: StreamSettings
    actions: StreamActions
    """The actions of all models. Their keys are LABEL or MODEL/LABEL; `actions_of_model` finds those of one model."""


def actions_of_model(actions: StreamActions, model: str, find_label: Callable[[str], str | None]) -> StreamActions:
    """Return the actions of one model, by its own labels. `find_label` returns the model's label of a name.

    A key is first taken for a whole label, because labels may contain a slash; then for MODEL/LABEL, which takes
    precedence over the same LABEL alone.
    """
    labels: dict[str, ActionConfig] = {}
    prefix = f"{model or MODEL_KEY}/"
    named: dict[str, ActionConfig] = {}
    for key, action in actions.labels.items():
        if label := find_named(key, find_label):
            labels[label] = action
        elif key.startswith(prefix) and (label := find_named(key.removeprefix(prefix), find_label)):
            named[label] = action
    return actions.model_copy(update={"labels": labels | named})


def find_named(name: str, find_label: Callable[[str], str | None]) -> str | None:
    """Return the model's label of a name, or the name of an action that needs no label; None for other names."""
    return find_label(name) or (name if name in (SCENE_LOST, UNKNOWN) else None)
