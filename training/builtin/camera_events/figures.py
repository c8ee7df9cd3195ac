"""Compute and print the benchmark's figures from an engine's predictions of all cases."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from engines.arrays import F32
from engines.protocol import Engine
from training.builtin.camera_events import LABELS
from training.builtin.camera_events.benchmark import CUT, NOT_FIXED, Case


@dataclass(frozen=True, slots=True, kw_only=True)
class CasePrediction:
    """The prediction of one case, without its pixels. `log_probabilities`: (7,) float32, in the order of LABELS."""

    film: str
    source: str
    half: str
    label: str
    strength: str
    detail: str
    predicted: str
    log_probabilities: F32


def classify_cases(engine: Engine, cases: Iterable[Case]) -> list[CasePrediction]:
    """Predict the top-1 label of every case. The engine's bank needs slots for one window."""
    spec = engine.spec
    slots = np.arange(spec.chunks, dtype=np.int32)
    result = []
    for case in cases:
        engine.encode(case.frames, slots)
        probabilities = engine.classify(slots[None])[0]
        result.append(
            CasePrediction(
                film=case.film,
                source=case.source,
                half=case.half,
                label=case.label,
                strength=case.strength,
                detail=case.detail,
                predicted=spec.labels[int(probabilities.argmax())],
                log_probabilities=np.log(np.maximum(probabilities, 1e-12)),
            )
        )
    return result


def compute_figures(predictions: list[CasePrediction]) -> dict[str, Any]:
    """Compute false alarms, balanced accuracy and recalls: of each half, of all films, and with moving cameras."""
    return {
        "held-out": _summarise([each for each in predictions if is_counted(each, "held-out")]),
        "tuning": _summarise([each for each in predictions if is_counted(each, "tuning")]),
        "all": _summarise([each for each in predictions if is_counted(each)]),
        "with films whose camera is not fixed": _summarise([each for each in predictions if each.label != CUT]),
        "cuts": {half: _labels_at_cuts(predictions, half) for half in ("held-out", "tuning")},
        "films with false alarms": _films_with_false_alarms(predictions),
    }


def is_counted(prediction: CasePrediction, half: str | None = None) -> bool:
    """Return whether a case counts: of `half`, if given, without a cut, of a film whose camera is fixed."""
    return prediction.film not in NOT_FIXED and prediction.label != CUT and half in (None, prediction.half)


def _labels_at_cuts(predictions: list[CasePrediction], half: str) -> dict[str, float]:
    """Return for each label its share of the windows that hold a cut to another film."""
    cuts = [each.predicted for each in predictions if each.label == CUT and each.half == half]
    return {label: round(cuts.count(label) / len(cuts), 4) for label in LABELS if label in cuts}


def _summarise(predictions: list[CasePrediction]) -> dict[str, Any]:
    matrix = np.zeros((len(LABELS), len(LABELS)), np.int64)
    for prediction in predictions:
        matrix[LABELS.index(prediction.label), LABELS.index(prediction.predicted)] += 1
    occurs = matrix.sum(axis=1) > 0
    recall = matrix.diagonal() / np.maximum(matrix.sum(axis=1), 1)
    strengths = sorted({(a.label, a.strength) for a in predictions if a.strength})
    details = sorted({(a.label, a.detail) for a in predictions if a.detail})
    sources = sorted({a.source for a in predictions})
    return {
        "windows": len(predictions),
        "false_alarms": _share(predictions, lambda a: a.label == "normal", lambda a: a.predicted != "normal"),
        "false_alarms_by_source": {
            source: _share(
                predictions,
                lambda a, s=source: a.label == "normal" and a.source == s,
                lambda a: a.predicted != "normal",
            )
            for source in sources
        },
        "balanced_accuracy": round(float(recall[occurs].mean()), 4) if occurs.any() else None,
        "recall": {label: round(float(recall[i]), 4) for i, label in enumerate(LABELS) if occurs[i]},
        "recall_by_strength": {
            f"{label} {strength}": _share(
                predictions,
                lambda a, key=(label, strength): (a.label, a.strength) == key,
                lambda a: a.predicted == a.label,
            )
            for label, strength in strengths
        },
        "recall_by_detail": {
            f"{label} {detail}": _share(
                predictions, lambda a, key=(label, detail): (a.label, a.detail) == key, lambda a: a.predicted == a.label
            )
            for label, detail in details
        },
        "confusion": matrix.tolist(),
    }


def _share(predictions: list[CasePrediction], is_chosen: Any, is_hit: Any) -> float | None:
    chosen = [prediction for prediction in predictions if is_chosen(prediction)]
    return round(sum(map(is_hit, chosen)) / len(chosen), 4) if chosen else None


def _films_with_false_alarms(predictions: list[CasePrediction]) -> dict[str, str]:
    """Map each film to its false alarms, with what is known of the film."""
    wrong: dict[str, list[str]] = {}
    for prediction in predictions:
        if prediction.label == "normal" and prediction.predicted != "normal":
            wrong.setdefault(prediction.film, []).append(prediction.predicted)
    notes = {film: f" ({NOT_FIXED[film]})" if film in NOT_FIXED else "" for film in wrong}
    return {
        film: ", ".join(f"{labels.count(name)} {name}" for name in sorted(set(labels))) + notes[film]
        for film, labels in sorted(wrong.items())
    }


def as_text(result: dict[str, Any]) -> str:
    """Format the figures as text."""
    lines = []
    for part in ("held-out", "tuning", "all", "with films whose camera is not fixed"):
        f = result[part]
        lines.append(f"{part}: {f['windows']} windows")
        lines.append(f"  false alarms       {_percent(f['false_alarms'])}")
        lines += [f"    {source:<17}{_percent(share)}" for source, share in f["false_alarms_by_source"].items()]
        lines.append(f"  balanced accuracy  {_percent(f['balanced_accuracy'])}")
        for label, recall in f["recall"].items():
            by = {k.split()[1]: v for k, v in f["recall_by_strength"].items() if k.split()[0] == label}
            detail = "   ".join(f"{s} {_percent(by[s])}" for s in ("weak", "medium", "strong") if s in by)
            lines.append(f"    {label:<11}{_percent(recall)}   {detail}")
        lines += [f"    {detail:<20}{_percent(recall)}" for detail, recall in f["recall_by_detail"].items()]
    lines.append(f"confusion, held-out (rows: truth; {', '.join(LABELS)})")
    lines += ["  " + " ".join(f"{count:6d}" for count in row) for row in result["held-out"]["confusion"]]
    for half, labels in result["cuts"].items():
        shares = ", ".join(f"{label} {_percent(share).strip()}" for label, share in labels.items())
        lines.append(f"windows with a cut to another film, {half}: {shares or 'no such window'}")
    lines.append("films with false alarms")
    lines += [f"  {film}: {alarms}" for film, alarms in result["films with false alarms"].items()]
    return "\n".join(lines)


def _percent(share: float | None) -> str:
    return "     -" if share is None else f"{100 * share:5.1f}%"
