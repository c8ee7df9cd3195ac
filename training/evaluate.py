"""Measure a finished run on what its training held back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from training.runs import load_run
from training.train import measure, open_work


def evaluate_run(run: Path) -> dict[str, Any]:
    """The figures of the run's weights on the clips that its training held back."""
    recipe, model = load_run(run)
    torch.set_num_threads(recipe.threads)
    work = open_work(recipe.model_copy(update={"start_from": None}))
    return work.trainee.judge(measure(model, work.held_back, len(work.labels)))
