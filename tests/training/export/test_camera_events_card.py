"""The card of camera-events gives the figures on held-out film before all others."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from training.builtin.camera_events import LABELS
from training.builtin.camera_events.figures import CasePrediction, compute_figures
from training.evaluation.live import ActionRun, PlayedFilm
from training.evaluation.live_events import TrueEvent, compare_film
from training.evaluation.live_figures import live_figures
from training.export.camera_events_card import camera_events_card
from training.export.model_card import CardContent
from training.recipe import Recipe


def predictions(half: str, *, right: int, wrong: int) -> list[CasePrediction]:
    """Return windows of covers that lie still, `right` of which are recognised, and as many undisturbed windows."""
    found = []
    for label, predicted, count in (
        ("covered", "covered", right),
        ("covered", "normal", wrong),
        ("normal", "normal", right + wrong),
    ):
        logits = np.array([float(name == predicted) for name in LABELS], np.float32)
        case = CasePrediction(
            film="f.mp4",
            source="clips",
            half=half,
            label=label,
            strength="" if label == "normal" else "weak",
            detail="" if label == "normal" else "lying still",
            predicted=predicted,
            log_probabilities=logits,
        )
        found += [case] * count
    return found


def live(*, right: bool) -> dict[str, object]:
    """Return figures of one event, and of an hour of ordinary film."""
    start = ActionRun(label="covered" if right else "moved", start_s=5.5, end_s=9.0)
    played = PlayedFilm(runs=(start,), first_s=2.0, last_s=3602.0, watched_s=3600.0)
    events = compare_film(played, [TrueEvent(label="covered", start_s=4.0, end_s=9.0)])
    quiet = replace(played, runs=())
    return {"events": live_figures([events], LABELS), "ordinary": live_figures([compare_film(quiet, [])], LABELS)}


def test_figures_on_held_out_film_come_first(tiny: Recipe) -> None:
    benchmark = compute_figures(predictions("held-out", right=3, wrong=1) + predictions("tuning", right=4, wrong=0))
    matrix = np.eye(len(LABELS), dtype=int).tolist()
    card = camera_events_card(
        CardContent(
            recipe=tiny,
            labels=LABELS,
            metrics={"balanced_accuracy": 0.9, "false_alarms": 0.01, "confusion": matrix},
            benchmark={**benchmark, "live": {"held-out": live(right=True), "tuning": live(right=False)}},
            calibration="none.",
            notes=[],
        )
    )
    assert "**fixed cameras**" in card.splitlines()[2]
    assert "**0.0% false alarms, 87.5% balanced accuracy** on 8 windows" in card
    assert "| covered lying still | 75.0% |" in card
    assert "| tuning half | 8 | 0.00% | 100.0% |" in card
    assert card.index("held-out film") < card.index("all real film") < card.index("rendered film\n")
    assert "| held-out half | 1 | 100.0% | 1.5 s | 0.0, of 1.00 h (95 % interval: at most 88.5) |" in card
    assert "| tuning half | 1 | 0.0% | - |" in card
