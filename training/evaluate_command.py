"""`python -m training evaluate`: what is measured on which clips, and where the figures go."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

from engines.backends.names import Backend, Precision
from training.errors import RecipeError
from training.evaluate import evaluate_on, evaluate_run
from training.runs import HISTORY_FILE, RECIPE_FILE, read_json, read_recipe, run_labels


def run_evaluate(
    target: Path,
    data: Path | None,
    *,
    split: str | None,
    windows: int | None,
    backend: Any,
    precision: Any,
    output: Path | None,
) -> dict[str, Any]:
    """See the command. Raises `TrainingError`; `RecipeError` for options that do not go together."""
    for name, value, known in (("backend", backend, get_args(Backend)), ("precision", precision, get_args(Precision))):
        if value not in known:
            raise RecipeError(f"--{name} {value}: one of {', '.join(known)}")
    is_run = (target / RECIPE_FILE).is_file()
    if data is None:
        if split is not None or windows is not None:
            raise RecipeError("--split and --windows go with --data; without it a run is measured as its recipe says")
        return _own_part(target, output)
    if output is None:
        return evaluate_on(target, data, split=split, windows=windows, backend=backend, precision=precision)
    from training.report import Report

    report = Report(output)
    result = evaluate_on(
        target, data, split=split, windows=windows, backend=backend, precision=precision, see=report.see
    )
    history = read_json(target / HISTORY_FILE) if is_run and (target / HISTORY_FILE).is_file() else []
    report.write(result, list(result["per_class"]), history)
    return result


def _own_part(run: Path, output: Path | None) -> dict[str, Any]:
    """What the run held back."""
    result = evaluate_run(run)
    if output is not None:
        from training.report import Report

        recipe = read_recipe(run)
        named = {**result, "model": f"{recipe.name}@{recipe.version}", "data": "clips held back"}
        history = read_json(run / HISTORY_FILE) if (run / HISTORY_FILE).is_file() else []
        Report(output).write(named, run_labels(run, recipe), history)
    return result
