"""Define how the classifier treats one stream: the keys of the configuration, and the values with all defaults."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from pydantic import AfterValidator, BeforeValidator, Field

from streamclf.config.actions import ActionOverride, StreamActions, UnknownBelow, as_list, compose_labels
from streamclf.config.section import Section


def _refuse_repeated(names: tuple[str, ...]) -> tuple[str, ...]:
    repeated = next((name for i, name in enumerate(names) if name in names[:i]), None)
    if repeated is not None:
        raise ValueError(f"{repeated} occurs twice; name each model once")
    return names


class FeedOptions(Section):
    """The keys of a stream that configure its feed in the classifier. None takes the value of `engine`."""

    hop: int = Field(
        1,
        ge=1,
        le=1024,
        description="Chunks between two predictions, at most as many as a window of the model has.",
    )
    adaptive: bool | None = Field(
        None, description="Overrides `engine.adaptive` for this stream; if not set, that value applies."
    )
    max_staleness_ms: float | None = Field(
        None,
        ge=1,
        le=3_600_000,
        description="Overrides `engine.max_staleness_ms` for this stream, in milliseconds; if not set, that value "
        "applies.",
    )
    motion_gate: float = Field(
        0.0,
        ge=0,
        le=255,
        description="Motion, in grey levels of 255, below which a chunk counts as unchanged and is not encoded again. "
        "0 encodes every chunk.",
    )


ModelNames: TypeAlias = Annotated[
    tuple[str, ...], Field(min_length=1), AfterValidator(_refuse_repeated), BeforeValidator(as_list)
]


class ClassifyConfig(FeedOptions):
    """The keys of a stream that concern the classifiers alone."""

    models: ModelNames | None = Field(
        None,
        description="Names of the models that classify this stream, from the top-level `models`; `model` is the "
        "top-level `model`. If not set, all models.",
    )

    actions: Annotated[dict[str, ActionOverride], AfterValidator(compose_labels)] = Field(
        default_factory=dict,
        description="Actions of this stream by label. Keys that are not set here follow the top-level `actions`.",
    )
    unknown_below: UnknownBelow | None = Field(
        None, description="Overrides the top-level `unknown_below` for this stream, 0 to 1."
    )


class StreamSettings(FeedOptions):
    """The classifier's settings for one feed, with all defaults. They may change while the stream runs."""


class HeadSettings(Section):
    """The settings of one model on one feed. They may change while the stream runs."""

    actions: StreamActions = StreamActions()
    """The actions of this model alone, by its own labels."""
