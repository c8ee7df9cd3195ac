"""Measure a finished run on the made footage that its training held back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from training.train import ValidationWindows, footage_of, load_run, measure


def evaluate_run(run: Path) -> dict[str, Any]:
    """Balanced accuracy, false alarms and confusion matrix of the run's best weights."""
    recipe, model = load_run(run)
    torch.set_num_threads(recipe.threads)
    return measure(model, ValidationWindows(footage_of(recipe, validation=True), recipe))
