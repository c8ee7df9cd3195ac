"""Make small recipes for labelled films, which train in seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from training.recipe import Recipe, parse_recipe


def clip_recipe_tree(films: Path, **sections: Any) -> dict[str, Any]:
    """Return a recipe for the set in the folder `films`, as YAML gives it; `sections` change or add keys."""
    tree: dict[str, Any] = {
        "name": "ways",
        "fps": 10,
        "threads": 1,
        "accelerator": "cpu",
        "validate_every": 2,
        "model": {
            "kind": "vivit_factorised", "height": 32, "width": 48, "frames_per_chunk": 2, "chunks": 4, "patch": 16,
            "stem": [[4, 8]], "dim": 32, "heads": 2, "spatial_layers": 1, "temporal_layers": 1, "mlp_ratio": 2,
        },
        "data": {"kind": "clips", "path": str(films / "clips.csv"), "cache": str(films / "cache"), "workers": 1},
        "augment": {"flip": True, "flip_labels": {"left": "right"}, "brightness": 0.1},
        "optimiser": {"learning_rate": 2e-3, "warmup_steps": 2, "steps": 4, "batch": 6},
    }  # fmt: skip
    for name, values in sections.items():
        tree[name] = {**tree.get(name, {}), **values} if isinstance(values, dict) else values
    return tree


def clip_recipe(films: Path, **sections: Any) -> Recipe:
    """Return the checked recipe of `clip_recipe_tree`."""
    return parse_recipe(clip_recipe_tree(films, **sections), where="test")
