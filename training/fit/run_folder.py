"""A run's folder: recipe, classes, best weights and figures. `train` writes it, other commands read it."""

from __future__ import annotations

import fcntl
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml
from torch import nn

from engines.printable import printable
from streamclf.config.yaml_text import YamlTextError, parse_yaml
from training.data.batches import rank
from training.errors import RunError
from training.models import ClipModel
from training.recipe import Recipe, parse_recipe
from training.weights import WEIGHTS_FILE, read_weights

RECIPE_FILE, LABELS_FILE, METRICS_FILE, HISTORY_FILE, NOTES_FILE, LAST_FILE, BEST_FILE = (
    "recipe.yaml",
    "labels.json",
    "metrics.json",
    "history.json",
    "notes.json",
    "last.ckpt",
    "best.ckpt",
)
RECIPE_COMMENT = "# Written by python -m training train."
"""The first line of a run's recipe. It tells the file from a recipe that a person wrote."""


def build_model(recipe: Recipe, labels: int | None = None) -> ClipModel:
    """Build the recipe's model with fresh weights, or with those of `start_from`.

    `labels`: the number of classes; read from the recipe's data by default.
    """
    model = recipe.model.build(labels=len(recipe.data.label_names()) if labels is None else labels)
    if recipe.start_from is not None:
        if recipe.start_strict:
            load_weights(model, recipe.start_from)
        else:
            note = load_fitting_weights(model, recipe.start_from)
            print(f"start_from: {printable(note)}", file=sys.stderr, flush=True)
    return model


def load_weights(model: nn.Module, path: Path) -> None:
    """Load safetensors into `model`. Raises `RunError` where they are missing or belong to another model."""
    try:
        model.load_state_dict(read_weights(path))
    except RuntimeError as error:
        details = " ".join(line.strip() for line in str(error).splitlines()[1:3]) or str(error)
        raise RunError(
            f"{path}: not this model's weights ({details}); give the model section of the recipe that made them, or "
            "start_strict: false to load the tensors that fit"
        ) from error


def load_fitting_weights(model: nn.Module, path: Path) -> str:
    """Load the tensors whose names and shapes fit `model`, and describe the result in a line.

    Raises `RunError` where no tensor fits.
    """
    given, own = read_weights(path), model.state_dict()
    fitting = {name: value for name, value in given.items() if name in own and value.shape == own[name].shape}
    if not fitting:
        raise RunError(
            f"{path}: none of its {len(given)} tensors fits this model's {len(own)}; give weights of the same kind "
            "of model"
        )
    model.load_state_dict(fitting, strict=False)
    fresh = sorted(set(own) - set(fitting))
    names = f"; fresh: {', '.join(fresh[:8])}{', …' if len(fresh) > 8 else ''}" if fresh else ""
    return f"{path}: loaded {len(fitting)} of {len(own)} tensors{names}"


def read_recipe(run: Path) -> Recipe:
    """Read the recipe with which a run was started. Raises `RunError` where there is none."""
    try:
        tree = parse_yaml((run / RECIPE_FILE).read_text(encoding="utf-8")).value
    except (YamlTextError, UnicodeDecodeError) as error:
        raise RunError(f"{run / RECIPE_FILE}: damaged ({error}); train again with another --run folder") from error
    except OSError as error:
        raise RunError(
            f"{run}: not a run ({RECIPE_FILE} {error.strerror}); give the folder that train wrote"
        ) from error
    if not isinstance(tree, dict):
        raise RunError(f"{run / RECIPE_FILE}: damaged; train again with another --run folder")
    return parse_recipe(tree, where=str(run / RECIPE_FILE))


def has_weights(run: Path) -> bool:
    """Tell whether a run has weights, or a checkpoint to resume. Without any, nothing is lost when it starts again.

    Each validation writes `best.ckpt` before `last.ckpt`, so `best.ckpt` alone cannot be resumed.
    """
    return any((run / name).is_file() for name in (LAST_FILE, WEIGHTS_FILE))


@contextmanager
def starting_run(recipe: Recipe, run: Path) -> Iterator[None]:
    """Write the recipe into `run` while the block trains.

    If the block fails before its first checkpoint, remove what it wrote, so that the corrected command can use the
    folder. Raises `RunError` where another training writes there, where the folder holds a run of another recipe, and
    where it cannot be written.
    """
    is_new = not run.exists()
    try:
        run.mkdir(parents=True, exist_ok=True)
        folder = os.open(run, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise RunError(f"{run}: cannot be written ({error.strerror}); give another --run folder") from error
    try:
        if rank() == 0:
            _lock(folder, run)
        with _recipe_written(recipe, run):
            yield
    except BaseException:
        if is_new:
            with suppress(OSError):  # it has a checkpoint
                run.rmdir()
        raise
    finally:
        os.close(folder)


def _lock(folder: int, run: Path) -> None:
    """Lock the open folder of a run, until it is closed. Raises `RunError` where another process has it."""
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise RunError(
            f"{run}: another training writes there; wait for its end, or give another --run folder"
        ) from None
    except OSError:
        pass  # NFS cannot lock a folder


@contextmanager
def _recipe_written(recipe: Recipe, run: Path) -> Iterator[None]:
    """Write the recipe into `run`; remove it again if the block fails before its first checkpoint."""
    path = run / RECIPE_FILE
    is_start = not path.is_file() or _is_failed_start(run)
    writes = is_start and rank() == 0
    if not is_start and read_recipe(run) != recipe:
        raise RunError(f"{run}: holds a run of another recipe; give another --run folder or delete this one")
    try:
        try:
            if writes:
                _write_recipe(recipe, path)
        except OSError as error:
            raise RunError(f"{run}: cannot be written ({error.strerror}); give another --run folder") from error
        yield
    except BaseException:  # also Ctrl-C
        if writes and not has_weights(run):
            with suppress(OSError):
                for name in (RECIPE_FILE, LABELS_FILE, NOTES_FILE, BEST_FILE):
                    (run / name).unlink(missing_ok=True)
                    _partial(run / name).unlink(missing_ok=True)
        raise


def _is_failed_start(run: Path) -> bool:
    """Tell whether `run` has a recipe that training wrote, but no weights: the start was killed or failed."""
    try:
        with (run / RECIPE_FILE).open(encoding="utf-8", errors="replace") as file:
            return file.readline().rstrip() == RECIPE_COMMENT and not has_weights(run)
    except OSError:
        return False


def _write_recipe(recipe: Recipe, path: Path) -> None:
    """Write a recipe as YAML, completely or not at all."""
    text = yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False)
    partial = _partial(path)
    partial.write_text(f"{RECIPE_COMMENT}\n{text}", encoding="utf-8")
    partial.replace(path)


def load_run(run: Path) -> tuple[Recipe, ClipModel]:
    """Load a finished run's recipe, and its model with the best weights, in evaluation mode."""
    recipe = read_recipe(run)
    plain = recipe.model_copy(update={"start_from": None, "model": recipe.model.without_weights()})
    model = build_model(plain, len(run_labels(run, recipe)))
    load_weights(model, run / WEIGHTS_FILE)
    model.eval()
    return recipe, model


def run_labels(run: Path, recipe: Recipe) -> tuple[str, ...]:
    """Return the classes that the run was trained on."""
    if not (run / LABELS_FILE).is_file():
        return recipe.data.label_names()  # older runs have no such file
    found = read_json(run / LABELS_FILE)
    if not isinstance(found, list) or not all(isinstance(label, str) for label in found):
        raise RunError(f"{run / LABELS_FILE}: not a list of classes; finish the run, or train again")
    return tuple(found)


def run_thresholds(run: Path) -> dict[str, float]:
    """Return the thresholds of independent labels that the run chose on its validation clips."""
    return thresholds_of(read_json(run / METRICS_FILE))


def thresholds_of(metrics: Any) -> dict[str, float]:
    """Return the threshold of each label that has one, from the figures of a run."""
    rows = metrics.get("per_class", {}) if isinstance(metrics, dict) else {}
    return {label: row["threshold"] for label, row in rows.items() if row.get("threshold") is not None}


def read_json(path: Path) -> Any:
    """Read a JSON file. Raises `RunError`."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: cannot be read as JSON ({error}); finish the run, or measure again") from error


def write_json(path: Path, value: Any) -> None:
    """Write `value` as JSON, completely or not at all."""
    partial = _partial(path)
    partial.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    partial.replace(path)


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}.partial")
