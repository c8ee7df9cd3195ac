"""Errors in a training step name the step and the keys to change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support.clip_recipes import clip_recipe

from training.errors import LossError, OutOfMemoryError
from training.fit.lightning_module import ClipModule
from training.fit.train import train

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:lightning.*", "ignore::FutureWarning:lightning.*")


def test_loss_that_is_not_finite_names_step_and_part(
    films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = ClipModule.losses

    def broken_losses(self, batch):
        parts = original(self, batch)
        return {name: part * (float("nan") if self.global_step == 1 else 1) for name, part in parts.items()}

    monkeypatch.setattr(ClipModule, "losses", broken_losses)
    with pytest.raises(LossError, match=r"step 1: the loss is nan \(label part nan\); lower optimiser\.learning_rate"):
        train(clip_recipe(films), tmp_path / "run")


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory: you tried"),
        MemoryError(),
    ],
)
@pytest.mark.parametrize("method", ["losses", "backward"])
def test_out_of_memory_names_the_key_to_lower(
    films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, method: str
) -> None:
    def fail(*_args: Any, **_kwargs: Any) -> None:
        raise error

    monkeypatch.setattr(ClipModule if method == "losses" else torch.Tensor, method, fail)
    with pytest.raises(OutOfMemoryError, match=r"step 0: out of memory; lower optimiser\.batch=6"):
        train(clip_recipe(films), tmp_path / "run")
