"""Compute the figures of a taught model from the results on held-out films."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from engines.arrays import I64
from streamclf.teach.examples import Example
from streamclf.teach.held_out import TeachingData

DRAWS: Final = 4000
INTERVAL: Final = (2.5, 97.5)
ALIKE: Final = 0.75
"""Two labels are too alike if the balanced accuracy between the two, on held-out clips, is lower than this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelFigures:
    """The figures of one label, of held-out clips. `precision` is None where no clip was given the label."""

    label: str
    clips: int
    groups: int
    recall: float
    precision: float | None
    threshold: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class WrongClip:
    """A held-out clip that got another label. Times are those of its windows that got it, in seconds of the film."""

    clip: int
    window: int
    name: str
    label: str
    predicted: str
    probability: float
    start_s: float
    end_s: float
    right_windows: float
    """Share of the clip's windows that got the right label."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AlikePair:
    """Two labels that are too alike. `accuracy`: balanced accuracy between the two, on held-out clips."""

    labels: tuple[str, str]
    accuracy: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """Results on clips of films that the head was not fitted to.

    `interval`: 95 % interval of `balanced_accuracy`. `confusion`: (labels taught, labels of the model), clips.
    `false_alarms`: share of the labels' own windows that got "none of these"; None without that label.
    """

    labels: tuple[str, ...]
    taught: tuple[str, ...]
    balanced_accuracy: float
    interval: tuple[float, float]
    chance: float
    clips: int
    groups: int
    windows: int
    confusion: I64
    per_label: Sequence[LabelFigures]
    wrong: Sequence[WrongClip]
    alike: Sequence[AlikePair]
    false_alarms: float | None

    @property
    def beats_chance(self) -> bool:
        """Return whether the interval lies above chance."""
        return self.interval[0] > self.chance


def compute_figures(
    data: TeachingData,
    items: Sequence[Example],
    probabilities: NDArray[np.float64],
    labels: tuple[str, ...],
    thresholds: dict[str, float],
    *,
    seed: int,
) -> Figures:
    """Compute the figures from the probabilities (N, K') of each window.

    The prediction for a clip is the label with the highest mean probability over its windows, as in `classify`.
    """
    clips = len(items)
    means = np.stack([probabilities[data.clips == clip].mean(axis=0) for clip in range(clips)])
    truth = np.array([data.labels[data.clips == clip][0] for clip in range(clips)])
    groups = np.array([data.groups[data.clips == clip][0] for clip in range(clips)])
    predicted = means.argmax(axis=1)
    confusion = np.zeros((len(data.names), len(labels)), np.int64)
    np.add.at(confusion, (truth, predicted), 1)
    recalls = [float((predicted[truth == label] == label).mean()) for label in range(len(data.names))]
    independent = [len(np.unique(groups[truth == label])) for label in range(len(data.names))]
    none = data.none if data.none is not None else (len(labels) - 1 if len(labels) > len(data.names) else None)
    return Figures(
        labels=labels,
        taught=data.names,
        balanced_accuracy=float(np.mean(recalls)),
        interval=_interval(recalls, independent, seed),
        chance=1 / len(data.names),
        clips=clips,
        groups=len(np.unique(groups)),
        windows=len(data.labels),
        confusion=confusion,
        per_label=[
            LabelFigures(
                label=name,
                clips=int((truth == number).sum()),
                groups=independent[number],
                recall=recalls[number],
                precision=_precision(confusion, number),
                threshold=thresholds.get(name),
            )
            for number, name in enumerate(data.names)
        ],
        wrong=_wrong(data, items, probabilities, means, truth, predicted, labels),
        alike=_alike(data, means, truth),
        false_alarms=None if none is None else _false_alarms(data, probabilities, none),
    )


def _interval(recalls: Sequence[float], independent: Sequence[int], seed: int) -> tuple[float, float]:
    """Return the 95 % interval of the mean recall.

    Each recall is drawn from a beta distribution (Jeffreys' prior) with as many trials as the label has independent
    groups, because clips of one recording are right or wrong together. So ten of ten right gives no certainty.
    """
    rng = np.random.default_rng(seed)
    draws = [
        rng.beta(recall * count + 0.5, (1 - recall) * count + 0.5, DRAWS)
        for recall, count in zip(recalls, independent, strict=True)
    ]
    low, high = np.percentile(np.mean(draws, axis=0), INTERVAL)
    mean = float(np.mean(recalls))
    return min(float(low), mean), max(float(high), mean)


def _precision(confusion: I64, number: int) -> float | None:
    """Return the share of right ones among the clips that got a label, as if all labels had equally many clips."""
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    total = float(shares[:, number].sum())
    return float(shares[number, number]) / total if total else None


def _wrong(
    data: TeachingData,
    items: Sequence[Example],
    probabilities: NDArray[np.float64],
    means: NDArray[np.float64],
    truth: NDArray[np.int64],
    predicted: NDArray[np.intp],
    labels: tuple[str, ...],
) -> list[WrongClip]:
    """Return the wrong clips, the most certain errors first."""
    wrong = []
    for clip in np.flatnonzero(predicted != truth).tolist():
        own, times = probabilities[data.clips == clip], items[clip].content.times
        given = int(predicted[clip])
        errors = np.flatnonzero(own.argmax(axis=1) == given)
        errors = errors if len(errors) else np.array([int(own[:, given].argmax())])
        wrong.append(
            WrongClip(
                clip=clip,
                window=int(errors[own[errors, given].argmax()]),
                name=items[clip].row.name,
                label=data.names[truth[clip]],
                predicted=labels[given],
                probability=float(means[clip, given]),
                start_s=float(times[errors[0], 0]),
                end_s=float(times[errors[-1], 1]),
                right_windows=float((own.argmax(axis=1) == truth[clip]).mean()),
            )
        )
    return sorted(wrong, key=lambda clip: -clip.probability)


def _alike(data: TeachingData, means: NDArray[np.float64], truth: NDArray[np.int64]) -> list[AlikePair]:
    pairs = []
    for first in range(len(data.names)):
        for second in range(first + 1, len(data.names)):
            one, two = means[truth == first], means[truth == second]
            accuracy = float(((one[:, first] > one[:, second]).mean() + (two[:, second] > two[:, first]).mean()) / 2)
            if accuracy < ALIKE:
                pairs.append(AlikePair(labels=(data.names[first], data.names[second]), accuracy=accuracy))
    return sorted(pairs, key=lambda pair: pair.accuracy)


def _false_alarms(data: TeachingData, probabilities: NDArray[np.float64], none: int) -> float:
    known = np.flatnonzero(data.labels != none)
    weights = 1 / np.bincount(data.clips)[data.clips[known]]
    return float(np.average(probabilities[known].argmax(axis=1) == none, weights=weights))
