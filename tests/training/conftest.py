"""Small recipes with their data: synthetic footage and labelled films, and a run that has learned from the films."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from support.clip_recipes import clip_recipe
from support.labelled import write_set

from training.fit.train import train
from training.recipe import Recipe, parse_recipe


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Use one thread, because several threads of a tiny model only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def tiny_tree(cache: Path) -> dict[str, Any]:
    """Return a small camera-events recipe, as YAML gives it."""
    return {
        "name": "tiny",
        "fps": 10,
        "threads": 1,
        "validate_every": 2,
        "model": {
            "height": 32,
            "width": 48,
            "frames_per_chunk": 2,
            "chunks": 3,
            "patch": 16,
            "stem": [[4, 8]],
            "dim": 16,
            "heads": 2,
            "spatial_layers": 2,
            "temporal_layers": 2,
            "mlp_ratio": 2,
        },
        "data": {
            "cache": str(cache),
            "clips": 14,
            "validation_clips": 16,
            "frames": 8,
            "normal_share": 0.4,
            "normal_windows": 0.3,
            "fresh_windows": 0.5,
            "workers": 1,
        },
        "optimiser": {"learning_rate": 1e-3, "warmup_steps": 1, "steps": 2, "batch": 4},
        "loss": {"patch_keep": 0.5},
    }


@pytest.fixture(scope="session")
def footage_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder for synthetic footage, which is rendered once for all tests."""
    return tmp_path_factory.mktemp("footage")


@pytest.fixture
def tiny_recipe_tree(footage_cache: Path) -> dict[str, Any]:
    return tiny_tree(footage_cache)


@pytest.fixture
def tiny(footage_cache: Path) -> Recipe:
    return parse_recipe(tiny_tree(footage_cache), where="tiny")


@pytest.fixture(scope="session")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a set whose classes differ by motion alone: four training clips and two validation clips of each."""
    folder = tmp_path_factory.mktemp("films")
    write_set(folder, clips=4, validation=2)
    return folder


@pytest.fixture(scope="session")
def run(films: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train a run on `films` until it knows the classes. Tests must not change its folder."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("runs") / "ways"
    recipe = clip_recipe(
        films, validate_every=35, optimiser={"steps": 70, "batch": 12, "ema_decay": 0.9}, loss={"label_smoothing": 0}
    )
    train(recipe, folder)
    return folder
