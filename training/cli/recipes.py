"""Define the commands that read a recipe."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from training.cli.options import Json, Overrides, print_result
from training.errors import RecipeError


def train(
    recipe: Annotated[Path, typer.Argument(help="YAML recipe")],
    overrides: Overrides = None,
    run: Annotated[
        Path | None, typer.Option("--run", "--folder", help="folder of the run; by default runs/NAME")
    ] = None,
    cluster: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="train on a Ray cluster; RUN is on a disk of all its machines"),
    ] = None,
    workers: Annotated[int, typer.Option(min=1, max=1024, help="with --cluster: processes")] = 1,
    as_json: Json = False,
) -> None:
    """Train a recipe, or resume a run that was killed."""
    from training.data.batches import rank
    from training.fit.cluster import train_on_cluster
    from training.fit.train import train as train_recipe
    from training.recipe import load_recipe

    # A killed process leaves semaphores. Python removes them, and would print a warning about them.
    os.environ.setdefault("PYTHONWARNINGS", "ignore::UserWarning:multiprocessing.resource_tracker")
    loaded = load_recipe(recipe, overrides or [])
    run = run or Path("runs") / loaded.name
    if cluster is None:
        metrics = train_recipe(loaded, run)
    else:
        gpu = loaded.accelerator == "gpu"
        metrics = train_on_cluster(recipe, overrides or [], run, address=cluster, workers=workers, gpu=gpu)
    if rank() == 0:
        print_result(metrics, as_json=as_json)


def summary(
    recipe: Annotated[
        Path,
        typer.Argument(
            metavar="RECIPE_OR_FOLDER", help="YAML recipe, folder of a run, or folder for import-hf (without weights)"
        ),
    ],
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """Show what a recipe or a Hugging Face folder builds: parameters, FLOPs, sizes, window."""
    from training.evaluation.summary import summarise
    from training.fit.run_folder import LABELS_FILE, RECIPE_FILE, run_labels
    from training.recipe import load_recipe

    if (recipe / "config.json").is_file():
        from training.importing import summarise_folder

        if overrides:
            raise RecipeError(f"{overrides[0]}: {recipe} has no recipe, so no key can be overridden")
        result = summarise_folder(recipe)
    else:
        loaded = load_recipe(recipe / RECIPE_FILE if recipe.is_dir() else recipe, overrides or [])
        trained = (recipe / LABELS_FILE).is_file()
        result = summarise(loaded, labels=len(run_labels(recipe, loaded)) if trained else None)
    print_result(result, as_json=as_json)


def contact_sheet(
    recipe: Annotated[Path, typer.Argument(help="YAML recipe")],
    overrides: Overrides = None,
    output: Annotated[Path, typer.Option("-o", "--output", help="image to write")] = Path("contact-sheet.webp"),
    windows: Annotated[int, typer.Option(min=1, max=16, help="windows for each label")] = 3,
) -> None:
    """Draw validation windows of each label of a recipe in one image."""
    from training.evaluation.contact_sheet import write_contact_sheet
    from training.recipe import load_recipe

    write_contact_sheet(load_recipe(recipe, overrides or []), output, windows=windows)
    print(f"wrote {output}")
