"""Define when a label's probability becomes an action: thresholds, times and hours, for all streams and for one."""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Mapping
from typing import Annotated, Any, Final, TypeAlias, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, model_validator

from streamclf.config.hours import parse_hours
from streamclf.config.section import Section

ConfigT = TypeVar("ConfigT")

UNKNOWN: Final = "unknown"
"""Label of the action that reports windows in which no label is likely enough."""
SCENE_LOST: Final = "scene_lost"
"""Label of the action that reports that the picture is not the scene any more."""
MAX_ENTRIES: Final = 64
OFF_SHARE: Final = 0.625
"""`off` as a share of `on` where only the default of `off` is too high: the ratio of the defaults, 0.5 and 0.8."""

HOLD_S: Final = 600.0
"""`hold_s` of a label that hides the scene. A scene that has changed meanwhile, as at dusk, must not hold for hours."""
_SCENE_LOST_DEFAULTS: Final = {"on": 0.5, "min_s": 3.0, "smooth_s": 0.3, "hold_s": HOLD_S}
"""Defaults of the action `scene_lost` where they differ. A person who passes the lens hides the scene for a second."""


def as_list(value: object) -> object:
    """Take one text for a list that holds it alone."""
    return [value] if isinstance(value, str) else value


def _check_hours(entries: tuple[str, ...]) -> tuple[str, ...]:
    for entry in entries:
        parse_hours(entry)
    return entries


On: TypeAlias = Annotated[float, Field(gt=0, le=1)]
Off: TypeAlias = Annotated[float, Field(ge=0, lt=1)]
UpToAnHour: TypeAlias = Annotated[float, Field(ge=0, le=3600)]
UpToADay: TypeAlias = Annotated[float, Field(ge=0, le=86400)]
Active: TypeAlias = Annotated[
    tuple[Annotated[str, Field(max_length=64)], ...],
    Field(max_length=MAX_ENTRIES),
    AfterValidator(_check_hours),
    BeforeValidator(as_list),
]
UnknownBelow: TypeAlias = Annotated[
    float,
    Field(
        ge=0,
        le=1,
        description="Probability of the best label below which a window is `unknown`; 0 is never.",
    ),
]


class ActionConfig(Section):
    """The thresholds, times and hours that turn a label's probability into an action."""

    on: On = Field(
        0.8,
        description="Smoothed probability at which the action starts; above 0, at most 1. If not set, the model's "
        "threshold of the label where it gives one.",
    )
    off: Off = Field(
        0.5,
        description="Smoothed probability below which the action ends; lower than `on`. If not set, 0.625 of `on` "
        "where `on` is the model's threshold, or at most 0.5.",
    )
    min_s: UpToAnHour = Field(
        0.6, description="Seconds that the probability has to stay at `on` or above to start the action."
    )
    smooth_s: UpToAnHour | None = Field(
        None,
        description="Seconds of smoothing (time constant); 0 for none. If not set, half of `min_s`.",
    )
    cooldown_s: UpToADay = Field(3.0, description="Seconds after an end in which the action does not start again.")
    hold_s: UpToADay | None = Field(
        None,
        description="Longest time in seconds for which an action goes on below `off`, because the scene from before it "
        "is hidden; 0 to end it at once. If not set, "
        f"{HOLD_S:g} for the labels that the model's bundle names in `hides_scene`, else 0.",
    )
    active: Active | None = Field(
        None,
        description="Hours in which the action may run, like `mon-fri 08:00-18:00`, or a list of them. [] is never; if "
        "not set, always.",
    )

    @model_validator(mode="after")
    def _check_hysteresis(self) -> ActionConfig:
        if "off" not in self.model_fields_set and self.off >= self.on:
            self.__dict__["off"] = OFF_SHARE * self.on
        if self.off >= self.on:
            raise ValueError(f"off={self.off}: must be below on={self.on}")
        return self

    def for_scene(self) -> ActionConfig:
        """Return this action with the defaults of `scene_lost`. Raises `ValueError` where its own keys contradict."""
        try:
            filled = ActionConfig.model_validate({**_SCENE_LOST_DEFAULTS, **self.model_dump(exclude_unset=True)})
        except ValidationError as error:
            raise ValueError(error.errors()[0]["msg"].removeprefix("Value error, ")) from None
        if not filled.hold_s:
            raise ValueError("hold_s=0: the action would end at once; give more, or `active: []` for no action")
        return filled

    def with_threshold(self, threshold: float) -> ActionConfig:
        """Return this action for a label to which the model gives a threshold.

        If `on` is not set, it is the threshold. If `off` is not set either, it is `OFF_SHARE` of it. Raises
        `ValueError` where the given `off` is not below the threshold.
        """
        if "on" in self.model_fields_set:
            return self
        off = self.off if "off" in self.model_fields_set else OFF_SHARE * threshold
        if off >= threshold:
            raise ValueError(
                f"off={off}: must be below on={threshold:g}, the model's threshold of this label; set `on`, too, or a "
                "lower `off`"
            )
        return self.model_copy(update={"on": threshold, "off": off})


def _override(key: str) -> Any:
    return Field(None, description=ActionConfig.model_fields[key].description)


class ActionOverride(Section):
    """The keys of an action that differ on one stream; the other keys keep the values of all streams."""

    on: On | None = _override("on")
    off: Off | None = _override("off")
    min_s: UpToAnHour | None = _override("min_s")
    smooth_s: UpToAnHour | None = _override("smooth_s")
    cooldown_s: UpToADay | None = _override("cooldown_s")
    hold_s: UpToADay | None = _override("hold_s")
    active: Active | None = _override("active")

    def applied_to(self, base: ActionConfig | None, key: str) -> ActionConfig:
        """Return `base` with this override. Raises `ValueError`, which begins with `key`, if they contradict."""
        common = {} if base is None else base.model_dump(exclude_unset=True)
        try:
            return ActionConfig.model_validate({**common, **self.model_dump(exclude_unset=True)})
        except ValidationError as error:
            raise ValueError(f"{key}: {error.errors()[0]['msg'].removeprefix('Value error, ')}") from None


def compose_labels(actions: dict[str, ConfigT]) -> dict[str, ConfigT]:
    """Return `actions` with each label in Unicode's composed form (NFC), so that equal labels are one key."""
    composed = {unicodedata.normalize("NFC", label): action for label, action in actions.items()}
    if len(composed) < len(actions):
        raise ValueError("two labels differ only in the form of an accent; give each label once")
    return composed


class StreamActions(Section):
    """The configuration of one stream's `ActionTracker`: its labels, and the options that all labels share."""

    labels: dict[str, ActionConfig] = Field(default_factory=dict)
    unknown_below: float = 0.0
    timezone: str | None = None

    def with_thresholds(self, thresholds: Mapping[str, float]) -> StreamActions:
        """Return these actions with the model's thresholds by label, and the defaults of `scene_lost`.

        See `ActionConfig.with_threshold` and `for_scene`. Raises `ValueError`, which begins with the label.
        """
        known = {unicodedata.normalize("NFC", label): value for label, value in thresholds.items()}
        labels = {
            label: _with_defaults(label, action, known.get(unicodedata.normalize("NFC", label)))
            for label, action in self.labels.items()
        }
        return self.model_copy(update={"labels": labels})

    def with_hold(self, hides_scene: Collection[str]) -> StreamActions:
        """Return these actions with `HOLD_S` for the labels that hide the scene, where `hold_s` is not set."""
        known = {unicodedata.normalize("NFC", label) for label in hides_scene}
        labels = {
            label: action.model_copy(update={"hold_s": HOLD_S})
            if action.hold_s is None and unicodedata.normalize("NFC", label) in known
            else action
            for label, action in self.labels.items()
        }
        return self.model_copy(update={"labels": labels})


def _with_defaults(label: str, action: ActionConfig, threshold: float | None) -> ActionConfig:
    try:
        if threshold is not None:
            return action.with_threshold(threshold)
        return action.for_scene() if label.rpartition("/")[2] == SCENE_LOST else action
    except ValueError as error:
        raise ValueError(f"{label}: {error}") from None
