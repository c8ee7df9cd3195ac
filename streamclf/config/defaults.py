"""Merge the defaults of all streams into each stream, before the configuration is validated."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from pydantic import ValidationError, model_validator

from streamclf.config.classify import ClassifyConfig
from streamclf.config.picture_area_keys import PictureViewKeys
from streamclf.config.source import SOURCES, SourceConfig

SOURCE_KEYS: Final = (*SOURCES, "fps")
"""Keys that belong to one stream."""


class StreamDefaults(ClassifyConfig, PictureViewKeys, SourceConfig):
    """The keys of every stream that does not set them itself."""

    @model_validator(mode="after")
    def _check_one_source(self) -> StreamDefaults:
        """Refuse sources, which belong to one stream; the checks of a stream apply after the merge."""
        given = [key for key in SOURCE_KEYS if getattr(self, key) is not None]
        if given:
            raise ValueError(f"{given[0]} belongs to one stream; give it there")
        return self


def merge_defaults(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return `raw` with each key of `defaults` in every stream that lacks it; `actions` are merged label by label.

    Defaults that are invalid are not merged: validation then reports them in their place, and once.
    """
    defaults, streams = raw.get("defaults"), raw.get("streams")
    if not isinstance(defaults, Mapping) or not isinstance(streams, Mapping):
        return raw
    try:
        StreamDefaults.model_validate(defaults)
    except ValidationError:
        return raw
    return {**raw, "streams": {name: _merged(defaults, stream) for name, stream in streams.items()}}


def _merged(defaults: Mapping[str, Any], own: Any) -> Any:
    if not isinstance(own, Mapping):
        return own  # validation reports it
    merged = {**defaults, **own}
    actions = own.get("actions", {})
    if isinstance(defaults.get("actions"), Mapping) and isinstance(actions, Mapping):
        merged["actions"] = {**defaults["actions"], **actions}
        for label, rules in defaults["actions"].items():
            if isinstance(rules, Mapping) and isinstance(actions.get(label), Mapping):
                merged["actions"][label] = {**rules, **actions[label]}
    return merged
