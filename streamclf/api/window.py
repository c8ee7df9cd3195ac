"""Define a classified window as programs get it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from engines.activation import present_labels
from engines.arrays import F32
from engines.bundle import ModelSpec
from streamclf.classifier.window_classifier import ShortClipFill, WindowResult


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassifiedWindow:
    """One window of a film or stream, and its probabilities.

    `start_s` and `end_s`: media time in seconds, with microseconds. `label` is the most probable one, `probability` its
    probability, 0 to 1. `present` has this label alone, or, for a model whose labels are independent, all labels at or
    above their thresholds, the most probable first; it may be empty. `vector`: (K,) float32, the probabilities in the
    order of `labels`; they sum to 1 unless the labels are independent.

    `model` is the model's name and version. `short_clip`: None, or how a clip that is shorter than a window fills this
    one: `hold` (its last frame is held), `loop` (it is repeated) or `stretch`. `end_s` is then the end of the clip.
    """

    start_s: float
    end_s: float
    label: str
    probability: float
    present: tuple[str, ...] = ()
    model: str = ""
    short_clip: ShortClipFill | None = None
    labels: tuple[str, ...] = field(repr=False, compare=False)
    vector: F32 = field(repr=False, compare=False)

    @property
    def probabilities(self) -> Mapping[str, float]:
        """The probability of each label, in the model's order. A new dictionary each time."""
        return dict(zip(self.labels, self.vector.tolist(), strict=True))

    def top(self, k: int = 5) -> list[tuple[str, float]]:
        """Return (label, probability) of the `k` most probable labels, the most probable first."""
        best = self.vector.argsort()[::-1][: max(0, k)]
        return [(self.labels[i], float(self.vector[i])) for i in best]


def to_window(result: WindowResult, spec: ModelSpec) -> ClassifiedWindow:
    """Convert the classifier's result of the model `spec`."""
    vector, labels = result.probabilities, spec.labels
    best = int(vector.argsort()[-1])
    return ClassifiedWindow(
        start_s=round(result.start_s, 6),
        end_s=round(result.end_s, 6),
        label=labels[best],
        probability=float(vector[best]),
        present=tuple(labels[index] for index in present_labels(spec, vector)),
        model=spec.id,
        short_clip=result.short_clip,
        labels=labels,
        vector=vector,
    )
