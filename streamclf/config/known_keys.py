"""List the keys of each section of the configuration, for errors that name an unknown key."""

from __future__ import annotations

from typing import Final

from pydantic import BaseModel

from streamclf.config.actions import ActionConfig, ActionOverride
from streamclf.config.clips import ClipsConfig
from streamclf.config.defaults import SOURCE_KEYS, StreamDefaults
from streamclf.config.engine import EngineConfig
from streamclf.config.examples import ExamplesConfig
from streamclf.config.outlets import OUTLETS, OutletsConfig
from streamclf.config.publish import PublishConfig
from streamclf.config.regions import RegionConfig
from streamclf.config.stream import StreamConfig
from streamclf.config.yaml_text import Place


def known_keys(loc: Place, service: type[BaseModel]) -> list[str]:
    """Return the keys that are known at a place of the file; `service` is the type of the whole file."""
    sections: dict[str, type[BaseModel]] = {
        "engine": EngineConfig,
        "defaults": StreamDefaults,
        "streams": StreamConfig,
        "actions": ActionConfig,
        "publish": PublishConfig,
        "clips": ClipsConfig,
        "examples": ExamplesConfig,
        "outlets": OutletsConfig,
    }
    section = sections.get(str(loc[0]), service) if len(loc) > 1 else service
    if (len(loc) > 3 and loc[0] == "streams" and loc[2] == "actions") or (
        len(loc) > 2 and loc[0] == "defaults" and loc[1] == "actions"
    ):
        section = ActionOverride
    elif len(loc) > 3 and loc[0] == "streams" and loc[2] == "regions":
        section = ActionOverride if len(loc) > 5 and loc[4] == "actions" else RegionConfig
    elif len(loc) > 2 and loc[0] == "outlets":
        section = OUTLETS[str(loc[1])]
    return [key for key in section.model_fields if section is not StreamDefaults or key not in SOURCE_KEYS]


_SECTIONS: Final[tuple[type[BaseModel], ...]] = (
    EngineConfig,
    StreamConfig,
    ActionConfig,
    PublishConfig,
    ClipsConfig,
    ExamplesConfig,
    *OUTLETS.values(),
)


def field_names(service: type[BaseModel]) -> frozenset[str]:
    """Return the names of all keys of the file, whose type is `service`."""
    return frozenset(key for section in (service, *_SECTIONS) for key in section.model_fields)
