"""Group the configured models by encoder: one classifier process encodes each chunk once for all heads of its group."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from engines.backends.names import Precision
from engines.bundle import ENCODER_FILE, INT8_ENCODER_FILE, Bundle, ModelSpec
from engines.group import encoder_key
from streamclf.classifier.feed import ring_slots
from streamclf.windows.ring import ring_bytes

CLASSIFIER: Final = "classifier"
"""Name of the process of the model without a name; the others are called `classifier[NAME]`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Geometry:
    """The properties of a view that depend on the model. Models with the same geometry can use the same ring."""

    fps: float
    frames_per_chunk: int
    height: int
    width: int
    resize: Literal["stretch", "crop", "letterbox"]
    slots: int

    @classmethod
    def of(cls, spec: ModelSpec) -> Geometry:
        """Return the geometry of a model."""
        return cls(
            fps=spec.fps,
            frames_per_chunk=spec.frames_per_chunk,
            height=spec.height,
            width=spec.width,
            resize=spec.resize,
            slots=ring_slots(spec),
        )

    @property
    def chunk_shape(self) -> tuple[int, int, int, int]:
        """(t, H, W, 3)."""
        return (self.frames_per_chunk, self.height, self.width, 3)

    @property
    def ring_bytes(self) -> int:
        """Shared memory of one view in bytes."""
        return ring_bytes(self.slots, self.chunk_shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineKey:
    """Everything that two bundles must have in common to be served by one classifier process."""

    encoder: str
    """sha256 of the encoder's file that the engine opens."""
    shared: tuple[object, ...]
    """The properties that engines compare before they share an encoder: see `encoder_key`."""
    geometry: Geometry

    @classmethod
    def of(cls, bundle: Bundle, precision: Precision) -> EngineKey:
        """Return the key of a bundle that is opened with `precision`."""
        spec = bundle.spec
        file = INT8_ENCODER_FILE if precision == "int8" and INT8_ENCODER_FILE in spec.files else ENCODER_FILE
        return cls(encoder=spec.files[file], shared=encoder_key(spec), geometry=Geometry.of(spec))


@dataclass(frozen=True, slots=True)
class ModelGroup:
    """The models that one classifier process serves, an engine group: bundles by name, in the configuration's order."""

    key: EngineKey
    bundles: Mapping[str, Bundle]


def group_models(bundles: Mapping[str, Bundle], precision: Precision) -> list[ModelGroup]:
    """Return the engine groups of all models, in the order of their first models."""
    groups: dict[EngineKey, dict[str, Bundle]] = {}
    for name, bundle in bundles.items():
        groups.setdefault(EngineKey.of(bundle, precision), {})[name] = bundle
    return [ModelGroup(key, members) for key, members in groups.items()]


def process_name(model: str, number: int = 1) -> str:
    """Return the name of a classifier process whose first model is `model`; `number` tells equal names apart."""
    if number == 1:
        return f"{CLASSIFIER}[{model}]" if model else CLASSIFIER
    return f"{CLASSIFIER}[{model or 'model'}-{number}]"
