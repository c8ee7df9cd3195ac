"""The benchmark's figures: what an engine made of every case, counted and said in full."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from engines.protocol import Engine
from training.builtin.camera_events import LABELS
from training.builtin.camera_events.benchmark import NOT_FIXED, Case


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What was predicted for one case, without its pixels."""

    film: str
    source: str
    half: str
    label: str
    strength: str
    predicted: str


def answers(engine: Engine, cases: Iterable[Case]) -> list[Answer]:
    """Classify every case: its top-1 label. The engine's bank needs a window's slots."""
    spec = engine.spec
    slots = np.arange(spec.chunks, dtype=np.int32)
    result = []
    for case in cases:
        engine.encode(case.frames, slots)
        predicted = spec.labels[int(engine.classify(slots[None])[0].argmax())]
        result.append(
            Answer(
                film=case.film,
                source=case.source,
                half=case.half,
                label=case.label,
                strength=case.strength,
                predicted=predicted,
            )
        )
    return result


def figures(given: list[Answer]) -> dict[str, Any]:
    """False alarms, balanced accuracy and recalls: of all films, of each half, and with the films not fixed."""
    fixed = [answer for answer in given if answer.film not in NOT_FIXED]
    return {
        "all": _of(fixed),
        "tuning": _of([answer for answer in fixed if answer.half == "tuning"]),
        "held-out": _of([answer for answer in fixed if answer.half == "held-out"]),
        "with films whose camera is not fixed": _of(given),
        "films with false alarms": _alarming(given),
    }


def _of(given: list[Answer]) -> dict[str, Any]:
    matrix = np.zeros((len(LABELS), len(LABELS)), np.int64)
    for answer in given:
        matrix[LABELS.index(answer.label), LABELS.index(answer.predicted)] += 1
    seen = matrix.sum(axis=1) > 0
    recall = matrix.diagonal() / np.maximum(matrix.sum(axis=1), 1)
    strengths = sorted({(a.label, a.strength) for a in given if a.strength})
    sources = sorted({a.source for a in given})
    return {
        "windows": len(given),
        "false_alarms": _share(given, lambda a: a.label == "normal", lambda a: a.predicted != "normal"),
        "false_alarms_by_source": {
            source: _share(
                given,
                lambda a, s=source: a.label == "normal" and a.source == s,
                lambda a: a.predicted != "normal",
            )
            for source in sources
        },
        "balanced_accuracy": round(float(recall[seen].mean()), 4) if seen.any() else None,
        "recall": {label: round(float(recall[i]), 4) for i, label in enumerate(LABELS) if seen[i]},
        "recall_by_strength": {
            f"{label} {strength}": _share(
                given,
                lambda a, key=(label, strength): (a.label, a.strength) == key,
                lambda a: a.predicted == a.label,
            )
            for label, strength in strengths
        },
        "confusion": matrix.tolist(),
    }


def _share(given: list[Answer], chosen: Any, hit: Any) -> float | None:
    among = [answer for answer in given if chosen(answer)]
    return round(sum(map(hit, among)) / len(among), 4) if among else None


def _alarming(given: list[Answer]) -> dict[str, str]:
    """film -> what was wrongly reported of it, and what is known of the film."""
    wrong: dict[str, list[str]] = {}
    for answer in given:
        if answer.label == "normal" and answer.predicted != "normal":
            wrong.setdefault(answer.film, []).append(answer.predicted)
    notes = {film: f" ({NOT_FIXED[film]})" if film in NOT_FIXED else "" for film in wrong}
    return {
        film: ", ".join(f"{labels.count(name)} {name}" for name in sorted(set(labels))) + notes[film]
        for film, labels in sorted(wrong.items())
    }


def as_text(result: dict[str, Any]) -> str:
    """The figures for a person to read."""
    lines = []
    for part in ("all", "tuning", "held-out", "with films whose camera is not fixed"):
        f = result[part]
        lines.append(f"{part}: {f['windows']} windows")
        lines.append(f"  false alarms       {_percent(f['false_alarms'])}")
        lines += [f"    {source:<17}{_percent(share)}" for source, share in f["false_alarms_by_source"].items()]
        lines.append(f"  balanced accuracy  {_percent(f['balanced_accuracy'])}")
        for label, recall in f["recall"].items():
            by = {k.split()[1]: v for k, v in f["recall_by_strength"].items() if k.split()[0] == label}
            detail = "   ".join(f"{s} {_percent(by[s])}" for s in ("weak", "medium", "strong") if s in by)
            lines.append(f"    {label:<11}{_percent(recall)}   {detail}")
    lines.append(f"confusion, all (rows: truth; {', '.join(LABELS)})")
    lines += ["  " + " ".join(f"{count:6d}" for count in row) for row in result["all"]["confusion"]]
    lines.append("films with false alarms")
    lines += [f"  {film}: {what}" for film, what in result["films with false alarms"].items()]
    return "\n".join(lines)


def _percent(share: float | None) -> str:
    return "     -" if share is None else f"{100 * share:5.1f}%"
