"""When a label's probability becomes an action: thresholds, times and hours, for all streams and for one."""

from __future__ import annotations

from typing import Annotated, Final, TypeAlias

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from streamclf.config.hours import parse_hours

UNKNOWN: Final = "unknown"
"""The label of an action of windows in which no label is likely enough."""
MAX_ENTRIES: Final = 64


def _listed(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _checked_hours(entries: tuple[str, ...]) -> tuple[str, ...]:
    for entry in entries:
        parse_hours(entry)
    return entries


On: TypeAlias = Annotated[float, Field(gt=0, le=1, description="smoothed probability at which it starts")]
Off: TypeAlias = Annotated[float, Field(ge=0, lt=1, description="smoothed probability below which it ends")]
MinS: TypeAlias = Annotated[float, Field(ge=0, le=3600, description="seconds at `on` or above before it starts")]
SmoothS: TypeAlias = Annotated[
    float, Field(ge=0, le=3600, description="seconds of smoothing; half of `min_s` if not set")
]
CooldownS: TypeAlias = Annotated[float, Field(ge=0, le=86400, description="seconds after an end without a new start")]
Active: TypeAlias = Annotated[
    tuple[Annotated[str, Field(max_length=64)], ...],
    Field(max_length=MAX_ENTRIES, description="hours like `mon-fri 08:00-18:00`; [] is never, not set is always"),
    AfterValidator(_checked_hours),
    BeforeValidator(_listed),
]
UnknownBelow: TypeAlias = Annotated[
    float, Field(ge=0, le=1, description="windows whose best label is below this are `unknown`; 0 is never")
]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ActionConfig(_Section):
    """When a label's probability becomes the start and the end of an action."""

    on: On = 0.8
    off: Off = 0.5
    min_s: MinS = 0.6
    smooth_s: SmoothS | None = None
    cooldown_s: CooldownS = 3.0
    active: Active | None = None

    @model_validator(mode="after")
    def _hysteresis(self) -> ActionConfig:
        if self.off >= self.on:
            raise ValueError(f"off={self.off}: below on={self.on}")
        return self


class ActionOverride(_Section):
    """What one stream has otherwise; what is not set is as for all streams."""

    on: On | None = None
    off: Off | None = None
    min_s: MinS | None = None
    smooth_s: SmoothS | None = None
    cooldown_s: CooldownS | None = None
    active: Active | None = None

    def over(self, base: ActionConfig | None, key: str) -> ActionConfig:
        """The action as this stream has it. Raises `ValueError`, beginning with `key`, where the two do not agree."""
        common = {} if base is None else base.model_dump(exclude_unset=True)
        try:
            return ActionConfig.model_validate({**common, **self.model_dump(exclude_unset=True)})
        except ValidationError as error:
            raise ValueError(f"{key}: {error.errors()[0]['msg'].removeprefix('Value error, ')}") from None


class StreamActions(_Section):
    """All that an `ActionTracker` follows on one stream."""

    labels: dict[str, ActionConfig] = Field(default_factory=dict)
    unknown_below: float = 0.0
    timezone: str | None = None
