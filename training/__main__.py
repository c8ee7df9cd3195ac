"""`python -m training`: data, training, evaluation, windows for INT8, bundles, and the built-in model's benchmark."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from engines.backends.names import Precision
from training.errors import RecipeError, TrainingError

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)

Json = Annotated[bool, typer.Option("--json", help="one JSON object on stdout")]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="such as optimiser.steps=100")]


@app.callback()
def main() -> None:
    """Train models, measure them, and hand them to serving."""


@app.command()
def train(
    recipe: Annotated[Path, typer.Argument(help="YAML recipe")],
    overrides: Overrides = None,
    run: Annotated[
        Path | None, typer.Option("--run", "--folder", help="folder of the run; runs/NAME by default")
    ] = None,
    as_json: Json = False,
) -> None:
    """Train, or go on with a run that was killed."""
    from training.data.batches import rank
    from training.fit.train import train as train_recipe
    from training.recipe import load_recipe

    try:
        loaded = load_recipe(recipe, overrides or [])
        metrics = train_recipe(loaded, run or Path("runs") / loaded.name)
    except TrainingError as error:
        _fail(error)
    if rank() == 0:
        _say(metrics, as_json=as_json)


@app.command()
def summary(
    recipe: Annotated[Path, typer.Argument(help="YAML recipe")],
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """What a recipe builds: parameters, sizes, window."""
    from training.evaluation.summary import summarise
    from training.recipe import load_recipe

    try:
        result = summarise(load_recipe(recipe, overrides or []))
    except TrainingError as error:
        _fail(error)
    _say(result, as_json=as_json)


@app.command()
def evaluate(
    target: Annotated[Path, typer.Argument(metavar="BUNDLE_OR_RUN", help="folder of a bundle or of a finished run")],
    data: Annotated[
        Path | None, typer.Option(help="CSV list, folder of classes or .npz; without it, what the run held back")
    ] = None,
    split: Annotated[str | None, typer.Option(help="only this split of the list")] = None,
    windows: Annotated[int | None, typer.Option(min=0, help="of a clip, averaged; 0: all")] = None,
    backend: Annotated[str, typer.Option(help="of a bundle: auto, openvino, onnxruntime, tensorrt")] = "auto",
    precision: Annotated[str, typer.Option(help="of a bundle: auto, fp32, fp16, bf16, int8")] = "fp32",
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="folder for confusion matrix, curves and a page of clips")
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure a run or a bundle: top-1, top-5, balanced accuracy, AUC, every class, the confusion matrix."""
    from training.evaluation.report import run_evaluate

    try:
        result = run_evaluate(
            target, data, split=split, windows=windows, backend=backend, precision=precision, output=output
        )
    except TrainingError as error:
        _fail(error)
    if as_json:
        print(json.dumps(result))
        return
    from training.fit.metrics import table

    print(table(result))


@app.command()
def download(
    name: Annotated[str, typer.Argument(help="organmnist3d or ucf101top5")],
    folder: Annotated[Path, typer.Option(help="where to")] = Path("data"),
    url: Annotated[str | None, typer.Option(help="a mirror")] = None,
) -> None:
    """Fetch a published data set; stopped, it goes on where it was."""
    from training.data.download import PUBLISHED
    from training.data.download import download as fetch

    try:
        path = fetch(name, folder, url=url)
    except TrainingError as error:
        _fail(error)
    print(path)
    print(f"{PUBLISHED[name].source}; licence: {PUBLISHED[name].licence}", file=sys.stderr)


@app.command("import-hf")
def import_hf(
    folder: Annotated[Path, typer.Argument(help="config.json, model.safetensors, preprocessor_config.json")],
    output: Annotated[Path, typer.Option("-o", "--output", help="the bundle's folder")],
    fps: Annotated[float | None, typer.Option(help="sampled frames per second, which no folder says")] = None,
) -> None:
    """A Hugging Face video model's folder becomes a bundle."""
    from training.importing import import_folder

    try:
        bundle = import_folder(folder, output, fps=fps)
    except TrainingError as error:
        _fail(error)
    print(f"{bundle.spec.id}: {output}")


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="folder of a finished run")],
    output: Annotated[Path, typer.Option("-o", "--output", help="the bundle's folder")],
    figures: Annotated[Path | None, typer.Option(help="camera-events-benchmark's JSON, for the model card")] = None,
    bias: Annotated[list[str] | None, typer.Option(metavar="LABEL=VALUE", help="added to that label's logit")] = None,
) -> None:
    """Write a run's best weights as a bundle, and check it."""
    from training.export.bundle import export_run

    try:
        bundle = export_run(run, output, figures=figures, biases=_biases(bias or []))
    except TrainingError as error:
        _fail(error)
    print(f"{bundle.spec.id}: {output}")


@app.command()
def windows(
    model: Annotated[Path, typer.Argument(metavar="BUNDLE", help="folder or name of a bundle")],
    data: Annotated[Path, typer.Option(help="CSV list or folder of classes")],
    output: Annotated[Path, typer.Option("-o", "--output", help=".npz file to write")],
    split: Annotated[str | None, typer.Option(help="only this split of the list: train to calibrate")] = None,
    count: Annotated[int, typer.Option(min=1, help="of all windows, the same of each class")] = 256,
    disturbed: Annotated[
        bool, typer.Option("--disturbed", help="camera-events-benchmark's film; its splits: tuning, held-out")
    ] = False,
    as_json: Json = False,
) -> None:
    """Cut windows of clips for `streamclf compile --calibration` and `--validation`."""
    from training.export.int8_windows import write_windows

    try:
        written = write_windows(model, data, output, split=split, count=count, disturbed=disturbed)
    except TrainingError as error:
        _fail(error)
    _say(written, as_json=as_json)


@app.command("camera-events-benchmark")
def camera_events_benchmark(
    data: Annotated[Path, typer.Option(help="folder with clips/ and fight/")],
    bundle: Annotated[Path, typer.Option(help="the bundle to measure")] = Path("streamclf/bundles/camera-events"),
    precision: Annotated[Precision, typer.Option(help="of its engine")] = "fp32",
    as_json: Json = False,
) -> None:
    """Measure the built-in model on real film: as it is, and disturbed in every way. Takes minutes."""
    from engines.bundle import load_bundle
    from engines.errors import EngineError
    from engines.opening import open_engine
    from streamclf.errors import StreamclfError
    from training.builtin.camera_events.benchmark import cases, real_films
    from training.builtin.camera_events.figures import answers, as_text, figures

    try:
        loaded = load_bundle(bundle)
        engine = open_engine(loaded, precision=precision)
        result = figures(answers(engine, cases(real_films(data), loaded.spec)))
    except (TrainingError, EngineError, StreamclfError) as error:
        _fail(error)
    print(json.dumps(result) if as_json else as_text(result))


def _biases(given: list[str]) -> dict[str, float]:
    """`["noise=0.5"]` -> `{"noise": 0.5}`."""
    biases = {}
    for item in given:
        label, _, value = item.partition("=")
        try:
            biases[label] = float(value)
        except ValueError:
            raise RecipeError(f"--bias {item}: give a label and a number, like noise=0.5") from None
    return biases


def _fail(error: Exception) -> NoReturn:
    """One line, no traceback; 2 for wrong usage, 1 for what failed while running."""
    print(f"training: {error}", file=sys.stderr)
    raise typer.Exit(2 if isinstance(error, RecipeError) else 1)


def _say(result: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(result))
        return
    for name, value in result.items():
        print(f"{name}: {value:.4f}" if isinstance(value, float) else f"{name}: {value}")


if __name__ == "__main__":
    app()
