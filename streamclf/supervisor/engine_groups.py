"""Group the configured models by encoder: one classifier process encodes each chunk once for all heads of its group."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from engines.backends.names import Precision
from engines.bundle import ENCODER_FILE, INT8_ENCODER_FILE, Bundle, ModelSpec
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
    """Everything that two bundles must have in common to share an encoder and its features."""

    encoder: str
    """sha256 of the encoder's file."""
    geometry: Geometry
    chunks: int
    feature_shape: tuple[int, ...]

    @classmethod
    def of(cls, bundle: Bundle, precision: Precision) -> EngineKey:
        """Return the key of a bundle that is opened with `precision`."""
        spec = bundle.spec
        file = INT8_ENCODER_FILE if precision == "int8" and INT8_ENCODER_FILE in spec.files else ENCODER_FILE
        return cls(
            encoder=spec.files[file],
            geometry=Geometry.of(spec),
            chunks=spec.chunks,
            feature_shape=spec.feature_shape,
        )


@dataclass(frozen=True, slots=True)
class EngineGroup:
    """The models that one classifier process serves: their bundles by name, in the order of the configuration."""

    key: EngineKey
    bundles: Mapping[str, Bundle]


def group_models(bundles: Mapping[str, Bundle], precision: Precision) -> list[EngineGroup]:
    """Return the engine groups of all models, in the order of their first models."""
    groups: dict[EngineKey, dict[str, Bundle]] = {}
    for name, bundle in bundles.items():
        groups.setdefault(EngineKey.of(bundle, precision), {})[name] = bundle
    return [EngineGroup(key, members) for key, members in groups.items()]


def process_name(model: str, number: int = 1) -> str:
    """Return the name of a classifier process whose first model is `model`; `number` tells equal names apart."""
    if number == 1:
        return f"{CLASSIFIER}[{model}]" if model else CLASSIFIER
    return f"{CLASSIFIER}[{model or 'model'}-{number}]"
