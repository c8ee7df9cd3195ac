"""A run's folder: recipe, classes, best weights, figures; written by train, read by everything after."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import yaml
from torch import nn

from training.builtin.camera_events import LABELS as CAMERA_EVENTS
from training.data.datasets import label_names
from training.data.recipes import CameraEventsData
from training.errors import RunError
from training.models import ClipModel
from training.recipe import Recipe, parse_recipe
from training.weights import WEIGHTS_FILE, read_weights

RECIPE_FILE, LABELS_FILE, METRICS_FILE, HISTORY_FILE, NOTES_FILE, LAST_FILE = (
    "recipe.yaml",
    "labels.json",
    "metrics.json",
    "history.json",
    "notes.json",
    "last.ckpt",
)


def labels_of(recipe: Recipe) -> tuple[str, ...]:
    """The classes of a recipe, from the recipe itself or from its list. Raises `DataError`."""
    return CAMERA_EVENTS if isinstance(recipe.data, CameraEventsData) else label_names(recipe.data)


def build_model(recipe: Recipe, labels: int | None = None) -> ClipModel:
    """The recipe's network with fresh weights, or those of `start_from`. `labels`: how many, where that is known."""
    model = recipe.model.build(labels=len(labels_of(recipe)) if labels is None else labels)
    if recipe.start_from is not None:
        if recipe.start_strict:
            load_weights(model, recipe.start_from)
        else:
            print(f"start_from: {take_weights(model, recipe.start_from)}", file=sys.stderr, flush=True)
    return model


def load_weights(model: nn.Module, path: Path) -> None:
    """Read safetensors into `model`. Raises `RunError` where they are missing or another network's."""
    try:
        model.load_state_dict(read_weights(path))
    except RuntimeError as error:
        told = " ".join(line.strip() for line in str(error).splitlines()[1:3]) or str(error)
        raise RunError(
            f"{path}: not this model's weights ({told}); give the model section of the recipe that made them, or "
            "start_strict: false to take what fits"
        ) from error


def take_weights(model: nn.Module, path: Path) -> str:
    """Read what fits into `model`, by name and shape, and tell what did not. Raises `RunError` where nothing does."""
    given, mine = read_weights(path), model.state_dict()
    fitting = {name: value for name, value in given.items() if name in mine and value.shape == mine[name].shape}
    if not fitting:
        raise RunError(f"{path}: none of its {len(given)} tensors is one of this model's {len(mine)}; another network")
    model.load_state_dict(fitting, strict=False)
    left = sorted(set(mine) - set(fitting))
    told = f"; fresh: {', '.join(left[:8])}{', …' if len(left) > 8 else ''}" if left else ""
    return f"{path}: {len(fitting)} of {len(mine)} tensors taken{told}"


def read_recipe(run: Path) -> Recipe:
    """The recipe that a run was started with. Raises `RunError` where there is none."""
    try:
        tree = yaml.safe_load((run / RECIPE_FILE).read_text(encoding="utf-8"))
    except OSError as error:
        raise RunError(
            f"{run}: not a run ({RECIPE_FILE} {error.strerror}); give the folder that train wrote"
        ) from error
    return parse_recipe(tree, where=str(run / RECIPE_FILE))


def load_run(run: Path) -> tuple[Recipe, ClipModel]:
    """A finished run's recipe and best weights, ready to evaluate."""
    recipe = read_recipe(run)
    plain = recipe.model_copy(update={"start_from": None, "model": recipe.model.without_weights()})
    model = build_model(plain, len(run_labels(run, recipe)))
    load_weights(model, run / WEIGHTS_FILE)
    model.eval()
    return recipe, model


def run_labels(run: Path, recipe: Recipe) -> tuple[str, ...]:
    """The classes that the run was trained on."""
    if not (run / LABELS_FILE).is_file():
        return labels_of(recipe)  # runs that are older than this file
    found = read_json(run / LABELS_FILE)
    if not isinstance(found, list) or not all(isinstance(label, str) for label in found):
        raise RunError(f"{run / LABELS_FILE}: not a list of classes; finish the run, or train again")
    return tuple(found)


def read_json(path: Path) -> Any:
    """What `path` holds. Raises `RunError`."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: cannot be read as JSON ({error}); finish the run, or measure again") from error


def write_json(path: Path, value: Any) -> None:
    """Write `value` whole or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    partial.replace(path)
