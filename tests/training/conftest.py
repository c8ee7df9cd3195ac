"""A recipe so small that it trains in a second, and footage for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from training.recipe import Recipe, parse_recipe


@pytest.fixture(autouse=True)
def one_thread():
    """Threads of a tiny model only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def tiny_tree(cache: Path) -> dict[str, Any]:
    """A whole recipe, as YAML gives it."""
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
            "validation_clips": 8,
            "frames": 8,
            "normal_share": 0.4,
            "normal_windows": 0.3,
            "workers": 1,
        },
        "optimiser": {"learning_rate": 1e-3, "warmup_steps": 1, "steps": 2, "batch": 4},
        "loss": {"patch_keep": 0.5},
    }


@pytest.fixture(scope="session")
def footage_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made footage is rendered once for all tests."""
    return tmp_path_factory.mktemp("footage")


@pytest.fixture
def tiny(footage_cache: Path) -> Recipe:
    return parse_recipe(tiny_tree(footage_cache), where="tiny")
