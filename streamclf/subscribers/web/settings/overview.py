"""Describe a configuration for the page Settings: its streams and actions, without passwords."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, Field

from streamclf.config.actions import SCENE_LOST, UNKNOWN, ActionConfig, StreamActions
from streamclf.config.placeholders import PLACEHOLDER
from streamclf.config.service import ServiceConfig
from streamclf.config.source import SOURCES
from streamclf.config.stream import StreamConfig
from streamclf.config.yaml_text import YamlTextError, parse_yaml
from streamclf.events.kinds import State
from streamclf.events.types import Heartbeat
from streamclf.subscribers.web.service_view import LiveService
from streamclf.subscribers.web.settings.area_edit import regions_of
from streamclf.subscribers.web.settings.config_editor import ConfigEditor, ConfigVersion
from streamclf.subscribers.web.settings.shown_text import masked

Outcome = Literal["applied", "refused", "waiting", "no service"]


class Thresholds(BaseModel):
    """The thresholds of an action that the page changes."""

    on: float
    off: float
    min_s: float
    cooldown_s: float

    @classmethod
    def of(cls, action: ActionConfig) -> Thresholds:
        """Return the thresholds of a configured action."""
        return cls(on=action.on, off=action.off, min_s=action.min_s, cooldown_s=action.cooldown_s)


class NamedRegion(BaseModel):
    """A region of a stream; a single one may have an empty name."""

    name: str
    region: tuple[float, float, float, float] = Field(description="(left, top, right, bottom) in shares.")


class AreaSettings(BaseModel):
    """How a stream shows its picture."""

    rotate: int
    flip: str | None
    mask: list[list[tuple[float, float]]] = Field(description="Polygons; a rectangle is one of four corners.")
    regions: list[NamedRegion]

    @classmethod
    def of(cls, stream: StreamConfig) -> AreaSettings:
        """Describe a stream."""
        return cls(
            rotate=stream.rotate,
            flip=stream.flip,
            mask=[list(shape) for shape in stream.mask],
            regions=[NamedRegion(name=name, region=region) for name, region in regions_of(stream).items()],
        )


class StreamSettings(BaseModel):
    """One stream of the configuration, and its present state."""

    stream: str
    name: str | None
    source: str = Field(description="Its camera, URL, folder or push address, with passwords masked.")
    enabled: bool
    state: State | None
    reason: str | None
    finished: bool = Field(False, description="Whether its file has ended.")
    actions: dict[str, Thresholds] = Field(description="Actions of the stream by label, as they apply to it.")
    own_actions: list[str] = Field(description="Labels for which the stream has thresholds of its own.")
    area: AreaSettings | None = Field(None, description="Regions and masks; null while the file has an error.")


class ReloadResult(BaseModel):
    """How the service received a version of the file."""

    outcome: Outcome = Field(description="`waiting`: the service has not read this version of the file (yet).")
    reason: str | None = None


class Settings(BaseModel):
    """The configuration, as far as the page changes it."""

    available: bool = Field(description="Whether this page has the configuration's file.")
    reason: str | None = Field(None, description="Why not; or why the file cannot be read.")
    file: str | None = None
    version: str = Field("", description="Identifies the content; give it with each edit.")
    saved: str = Field("", description="Identifies the save of the file, as heartbeats do.")
    read_only: str | None = Field(None, description="Why the file cannot be written; null if it can.")
    error: str | None = Field(None, description="The error in the file; null if it has none.")
    streams: list[StreamSettings] = []
    actions: dict[str, Thresholds] = Field({}, description="Actions of all streams by label.")
    labels: list[str] = Field([], description="Labels of the model.")
    variables: list[str] = Field([], description="Names of variables that the streams use.")
    undo: str | None = Field(None, description="The edit that can be undone.")
    undo_time: datetime | None = None
    service: ReloadResult = ReloadResult(outcome="waiting")


def describe_settings(editor: ConfigEditor, now: ConfigVersion, service: LiveService) -> Settings:
    """Describe the present content of the file."""
    undoable = editor.undoable(now)
    found = Settings(
        available=True,
        file=str(editor.path),
        version=now.version,
        saved=now.saved,
        read_only=editor.read_only,
        error=now.error,
        undo=undoable.description if undoable else None,
        undo_time=undoable.time if undoable else None,
        service=reload_result(service, now.saved),
    )
    raw = _raw_streams(now.text)
    found.variables = sorted({name for each in raw.values() for name in PLACEHOLDER.findall(str(each.get("url", "")))})
    config = now.config
    if config is None:
        found.streams = [_stream(name, each, None, service, {}) for name, each in raw.items()]
        return found
    thresholds = now.thresholds
    found.streams = [_stream(name, raw.get(name, {}), config, service, thresholds) for name in config.streams]
    common = StreamActions(labels=config.actions).with_thresholds(thresholds)
    found.actions = {label: Thresholds.of(action) for label, action in common.labels.items()}
    found.labels = now.labels
    if any(bundle.spec.hides_scene for bundle in (now.bundles or {}).values()):
        found.labels.append(SCENE_LOST)
    if config.unknown_below > 0:
        found.labels.append(UNKNOWN)
    return found


def reload_result(service: LiveService, saved: str) -> ReloadResult:
    """Return how the service received the save `saved` of the file."""
    heartbeat: Heartbeat | None = service.heartbeat
    if heartbeat is None or service.away_since is not None:
        return ReloadResult(outcome="no service")
    status = heartbeat.configuration
    if status is None or status.version != saved:
        return ReloadResult(outcome="waiting")
    return ReloadResult(outcome="applied" if status.applied else "refused", reason=status.reason)


def _raw_streams(text: str) -> dict[str, Mapping[str, Any]]:
    """Return the streams as they are in the file, with placeholders."""
    try:
        raw = parse_yaml(text).value
    except YamlTextError:
        return {}
    streams = raw.get("streams") if isinstance(raw, Mapping) else None
    streams = streams if isinstance(streams, Mapping) else {}
    return {str(name): each for name, each in streams.items() if isinstance(each, Mapping)}


def _stream(
    name: str,
    raw: Mapping[str, Any],
    config: ServiceConfig | None,
    service: LiveService,
    thresholds: Mapping[str, float],
) -> StreamSettings:
    """Describe a stream; `thresholds` are the model's, by label."""
    known = config.streams[name] if config else None
    status = service.read(name, lambda view: view.status)
    kind = next((key for key in SOURCES if raw.get(key) is not None), "")
    return StreamSettings(
        stream=name,
        name=known.name if known else None,
        source=f"{kind}: {masked(str(raw[kind]))}" if kind else "",
        enabled=known.enabled if known else raw.get("enabled") is not False,
        state=status.state if status else None,
        reason=status.reason if status else None,
        finished=status.finished if status else False,
        actions={
            label: Thresholds.of(each)
            for label, each in config.actions_of(name).with_thresholds(thresholds).labels.items()
        }
        if config
        else {},
        own_actions=list(known.actions) if known else [],
        area=AreaSettings.of(known) if known else None,
    )
