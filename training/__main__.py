"""The command line `python -m training`: download data, train, evaluate, export and import models."""

from __future__ import annotations

import signal

# Ctrl-C during the imports below ends the process at once, without a traceback. `run` sets another handler.
if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import errno
import json
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import typer

from engines.backends.names import Backend, Precision
from engines.printable import printable
from streamclf.errors import OutputError
from streamclf.redact import redact, redact_uncaught_errors
from streamclf.runtime.interrupts import catch_interrupts, exit_interrupted, is_interrupted
from streamclf.runtime.standard_streams import prepare_standard_streams
from training.errors import RecipeError, RunError, TrainingError
from training.list_options import ListOptions

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)

Json = Annotated[bool, typer.Option("--json", help="print one JSON object on stdout")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="override keys of the recipe, such as optimiser.steps=100"),
]


@app.callback()
def main() -> None:
    """Train models, evaluate them, and export them for serving."""


@app.command()
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

    try:
        loaded = load_recipe(recipe, overrides or [])
        run = run or Path("runs") / loaded.name
        if cluster is None:
            metrics = train_recipe(loaded, run)
        else:
            gpu = loaded.accelerator == "gpu"
            metrics = train_on_cluster(recipe, overrides or [], run, address=cluster, workers=workers, gpu=gpu)
    except TrainingError as error:
        _fail(error)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):  # checkpoints pass through the folder of temporary files
            _fail(RunError(f"{run} or {tempfile.gettempdir()}: no space left; free some, and run the command again"))
        _fail(
            RunError(f"{error.filename or recipe}: {error.strerror or error}; correct this, and run the command again")
        )
    if rank() == 0:
        _print_result(metrics, as_json=as_json)


@app.command()
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

    try:
        if (recipe / "config.json").is_file():
            from training.importing import summarise_folder

            if overrides:
                raise RecipeError(f"{overrides[0]}: {recipe} has no recipe, so no key can be overridden")
            result = summarise_folder(recipe)
        else:
            loaded = load_recipe(recipe / RECIPE_FILE if recipe.is_dir() else recipe, overrides or [])
            trained = (recipe / LABELS_FILE).is_file()
            result = summarise(loaded, labels=len(run_labels(recipe, loaded)) if trained else None)
    except TrainingError as error:
        _fail(error)
    _print_result(result, as_json=as_json)


@app.command("contact-sheet")
def contact_sheet(
    recipe: Annotated[Path, typer.Argument(help="YAML recipe")],
    overrides: Overrides = None,
    output: Annotated[Path, typer.Option("-o", "--output", help="image to write")] = Path("contact-sheet.webp"),
    windows: Annotated[int, typer.Option(min=1, max=16, help="windows for each label")] = 3,
) -> None:
    """Draw validation windows of each label of a recipe in one image."""
    from training.evaluation.contact_sheet import write_contact_sheet
    from training.recipe import load_recipe

    try:
        write_contact_sheet(load_recipe(recipe, overrides or []), output, windows=windows)
    except TrainingError as error:
        _fail(error)
    print(f"wrote {output}")


@app.command()
def evaluate(
    target: Annotated[Path, typer.Argument(metavar="BUNDLE_OR_RUN", help="folder of a bundle or of a finished run")],
    data: Annotated[
        Path | None, typer.Option(help="CSV list, folder of classes or .npz; by default the run's own validation clips")
    ] = None,
    split: Annotated[str | None, typer.Option(help="use only this split of the list")] = None,
    windows: Annotated[int | None, typer.Option(min=0, help="windows of a clip to average; 0: all windows")] = None,
    backend: Annotated[str, typer.Option(help="backend of a bundle: auto, openvino, onnxruntime, tensorrt")] = "auto",
    precision: Annotated[str, typer.Option(help="precision of a bundle: auto, fp32, fp16, bf16, int8")] = "fp32",
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="folder for the confusion matrix, learning curves and a page of clips"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Evaluate a run or a bundle: accuracies, AUC and the confusion matrix, or AP and F1 of independent labels."""
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
def live(
    bundle: Annotated[str, typer.Option(help="folder or name of a bundle")],
    films: Annotated[Path, typer.Option(help="CSV list of films and events: path,label,start_s,end_s")],
    actions: Annotated[
        Path | None, typer.Option(help="configuration of the service with the actions; by default all labels have one")
    ] = None,
    stream: Annotated[str | None, typer.Option(help="stream of that configuration, if its streams differ")] = None,
    tolerance: Annotated[
        float, typer.Option(help="seconds after the end of an event in which its action may still start")
    ] = 1.5,
    backend: Annotated[Backend, typer.Option(help="backend of its engine")] = "auto",
    precision: Annotated[Precision, typer.Option(help="precision of its engine")] = "fp32",
    as_json: Json = False,
) -> None:
    """Measure a bundle's actions on films, played as live: right events, false starts, seconds to the event."""
    from training.evaluation.live_figures import live_text
    from training.evaluation.live_list import measure_list

    try:
        result = measure_list(
            bundle,
            films,
            config=actions,
            stream=stream,
            tolerance_s=tolerance,
            backend=backend,
            precision=precision,
        )
    except TrainingError as error:
        _fail(error)
    print(json.dumps(result) if as_json else live_text(result))
    for warning in result["warnings"]:
        print(f"training: {printable(warning)}", file=sys.stderr)


@app.command()
def explain(
    target: Annotated[Path, typer.Argument(metavar="RUN_OR_RECIPE", help="folder of a finished run, or YAML recipe")],
    film: Annotated[Path, typer.Argument(help="video file")],
    output: Annotated[Path, typer.Option("-o", "--output", help="film (.mp4, .gif) or page (.html) to write")],
    weights: Annotated[Path | None, typer.Option(help="safetensors of the model; needed with a recipe")] = None,
    method: Annotated[
        Literal["auto", "rollout", "grad-cam", "occlusion"],
        typer.Option(help="auto: attention rollout for ViViTs, Grad-CAM for CNNs, occlusion for others"),
    ] = "auto",
    windows: Annotated[int, typer.Option(min=1, max=500, help="the most windows to explain")] = 12,
    as_json: Json = False,
) -> None:
    """Show as heat on a film where a model's predictions come from."""
    from training.evaluation.explain import explain_run

    try:
        result = explain_run(target, film, output, weights=weights, method=method, windows=windows)
    except TrainingError as error:
        _fail(error)
    _print_result(result, as_json=as_json)


@app.command()
def download(
    name: Annotated[str, typer.Argument(help="organmnist3d or ucf101top5")],
    folder: Annotated[Path, typer.Option(help="folder to write to")] = Path("data"),
    url: Annotated[str | None, typer.Option(help="address of a mirror")] = None,
) -> None:
    """Download a published data set. A stopped download resumes where it stopped."""
    from training.data.download import DATA_SETS
    from training.data.download import download as download_data

    try:
        path = download_data(name, folder, url=url)
    except TrainingError as error:
        _fail(error)
    print(printable(path))
    print(f"{DATA_SETS[name].source}; licence: {DATA_SETS[name].licence}", file=sys.stderr)


@app.command("import-hf", cls=ListOptions)
def import_hf(
    folder: Annotated[
        Path, typer.Argument(help="folder with config.json, model.safetensors, preprocessor_config.json")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="the bundle's folder")],
    fps: Annotated[
        float | None, typer.Option(help="sampled frames per second; by default those of the published model")
    ] = None,
    interpolate: Annotated[
        bool,
        typer.Option("--interpolate-positions", help="VideoPrism: read the processor's size and number of frames"),
    ] = False,
    labels: Annotated[
        list[str] | None,
        typer.Option(metavar="TEXT...", help="labels in words, for CLIP, SigLIP, SigLIP 2 and VideoPrism-LvT"),
    ] = None,
    template: Annotated[
        list[str] | None,
        typer.Option(metavar="TEXT...", help='texts with {} for the label, such as "a photo of {}"; averaged'),
    ] = None,
    chunks: Annotated[int | None, typer.Option(help="frames in one window; with --labels")] = None,
    temperature: Annotated[
        float | None, typer.Option(help="divides the cosines; by default the checkpoint's; with --labels")
    ] = None,
    encoder: Annotated[
        Path | None, typer.Option(help="bundle of the same checkpoint whose encoder is copied; with --labels")
    ] = None,
    independent: Annotated[
        bool, typer.Option("--independent", help="SigLIP: a probability of its own for each label; with --labels")
    ] = False,
) -> None:
    """Import a Hugging Face video model's folder as a bundle, or a text-and-image model with labels in words."""
    from training.importing import import_folder
    from training.importing.words.importing import WordsOptions, import_words

    try:
        if labels:
            options = WordsOptions(
                templates=template or (),
                fps=fps,
                chunks=chunks,
                temperature=temperature,
                interpolate=interpolate,
                encoder=encoder,
                independent=independent,
            )
            bundle = import_words(folder, output, labels, options)
        else:
            only = {
                "--template": template,
                "--chunks": chunks,
                "--temperature": temperature,
                "--encoder": encoder,
                "--independent": independent or None,
            }
            given = next((name for name, value in only.items() if value not in (None, [])), None)
            if given is not None:
                raise RecipeError(f"{given}: only with --labels; give the labels in words, or leave {given} out")
            bundle = import_folder(folder, output, fps=fps, interpolate=interpolate)
    except TrainingError as error:
        _fail(error)
    print(printable(f"{bundle.spec.id}: {output}"))


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="folder of a finished run")],
    output: Annotated[Path, typer.Option("-o", "--output", help="the bundle's folder")],
    figures: Annotated[
        list[Path] | None,
        typer.Option(help="JSON of camera-events-benchmark, for the model card; may be given again for that of --live"),
    ] = None,
    bias: Annotated[
        list[str] | None, typer.Option(metavar="LABEL=VALUE", help="add VALUE to the label's logit")
    ] = None,
) -> None:
    """Export a run's best weights as a bundle, and check it."""
    from training.export.bundle import export_run

    try:
        bundle = export_run(run, output, figures=figures or (), biases=_biases(bias or []))
    except TrainingError as error:
        _fail(error)
    print(printable(f"{bundle.spec.id}: {output}"))


@app.command()
def windows(
    model: Annotated[Path, typer.Argument(metavar="BUNDLE", help="folder or name of a bundle")],
    data: Annotated[Path, typer.Option(help="CSV list or folder of classes")],
    output: Annotated[Path, typer.Option("-o", "--output", help=".npz file to write")],
    split: Annotated[str | None, typer.Option(help="use only this split of the list; train to calibrate")] = None,
    count: Annotated[int, typer.Option(min=1, help="number of windows; all classes get the same share")] = 256,
    disturbed: Annotated[
        bool,
        typer.Option("--disturbed", help="use the film of camera-events-benchmark; its splits are tuning and held-out"),
    ] = False,
    as_json: Json = False,
) -> None:
    """Cut windows of clips for `streamclf compile --calibration` and `--validation`."""
    from training.export.int8_windows import write_windows

    try:
        written = write_windows(model, data, output, split=split, count=count, disturbed=disturbed)
    except TrainingError as error:
        _fail(error)
    _print_result(written, as_json=as_json)


@app.command("camera-events-benchmark")
def camera_events_benchmark(
    data: Annotated[Path, typer.Option(help="folder with clips/ and fight/")],
    bundle: Annotated[Path, typer.Option(help="the bundle to measure")] = Path("streamclf/bundles/camera-events"),
    precision: Annotated[Precision, typer.Option(help="precision of its engine")] = "fp32",
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="choose biases on the tuning half; the figures include them")
    ] = False,
    is_live: Annotated[
        bool, typer.Option("--live", help="measure actions instead: events, false starts, seconds to the event")
    ] = False,
    as_json: Json = False,
) -> None:
    """Measure the built-in model on real film, undisturbed and with each disturbance. Takes minutes."""
    if is_live and calibrate:
        _fail(RecipeError("--calibrate: --live measures actions and chooses no biases; leave one of the two out"))
    if is_live:
        _measure_live(bundle, data, precision, as_json=as_json)
        return
    from engines.bundle import load_bundle
    from engines.errors import EngineError
    from engines.opening import open_engine
    from streamclf.errors import StreamclfError
    from training.builtin.camera_events.benchmark import cases, real_films
    from training.builtin.camera_events.calibration import choose_biases, with_biases
    from training.builtin.camera_events.figures import as_text, classify_cases, compute_figures

    try:
        loaded = load_bundle(bundle)
        engine = open_engine(loaded, precision=precision)
        predictions = classify_cases(engine, cases(real_films(data), loaded.spec))
        biases = choose_biases(predictions) if calibrate else {}
        result = compute_figures(with_biases(predictions, biases))
    except (TrainingError, EngineError, StreamclfError) as error:
        _fail(error)
    if as_json:
        print(json.dumps({**result, "biases": biases}))
        return
    print(as_text(result))
    if calibrate:
        print("biases: " + " ".join(f"--bias {label}={value:g}" for label, value in biases.items()))


def _measure_live(bundle: Path, data: Path, precision: Precision, *, as_json: bool) -> None:
    from engines.bundle import load_bundle
    from engines.errors import EngineError
    from engines.opening import open_engine
    from streamclf.errors import StreamclfError
    from training.builtin.camera_events.benchmark import real_films
    from training.evaluation.camera_events_live import camera_events_text, measure_camera_events
    from training.evaluation.live import live_bank_slots

    try:
        loaded = load_bundle(bundle)
        engine = open_engine(loaded, precision=precision, bank_slots=live_bank_slots(loaded.spec, 16))
        result = measure_camera_events(engine, real_films(data))
    except (TrainingError, EngineError, StreamclfError) as error:
        _fail(error)
    print(json.dumps({"live": result}) if as_json else camera_events_text(result))


@app.command("gesture-films")
def gesture_films(
    clips: Annotated[Path, typer.Argument(help="CSV list of clips of gestures: path,label,split")],
    output: Annotated[Path, typer.Option("-o", "--output", help="folder for the films and their list, films.csv")],
    split: Annotated[str, typer.Option(help="the split whose shapes are shown")] = "val",
    around: Annotated[
        Path | None, typer.Option(help="CSV list of ordinary films, to cut to before and after shapes")
    ] = None,
) -> None:
    """Write films of held-out gestures as a stream shows them, for `python -m training live`."""
    from training.builtin.gestures.films import write_films

    try:
        written = write_films(clips, output, split=split, around=around)
    except TrainingError as error:
        _fail(error)
    print(printable(str(written)))


@app.command("export-everyday")
def export_everyday(
    weights: Annotated[Path, typer.Argument(help=".safetensors of timm's mobilenetv2_100 with 1001 classes")],
    labels: Annotated[Path, typer.Option(help="text file: `background`, then ImageNet's 1000 classes, one a line")],
    output: Annotated[Path, typer.Option("-o", "--output", help="the bundle's folder")],
) -> None:
    """Write the built-in base bundle `everyday` from the published ImageNet weights."""
    from training.export.everyday import export_everyday as export_base

    try:
        bundle = export_base(weights, labels, output)
    except (TrainingError, OSError) as error:
        _fail(error)
    print(printable(f"{bundle.spec.id}: {output}"))


def _biases(given: list[str]) -> dict[str, float]:
    """Parse `["noise=0.5"]` into `{"noise": 0.5}`."""
    biases = {}
    for item in given:
        label, _, value = item.partition("=")
        try:
            biases[label] = float(value)
        except ValueError:
            raise RecipeError(f"--bias {item}: give a label and a number, like noise=0.5") from None
    return biases


def _fail(error: Exception) -> NoReturn:
    """Print one line without a traceback, and exit: with 2 for wrong usage, with 1 for a failure while running."""
    print(f"training: {printable(redact(str(error)))}", file=sys.stderr)
    raise typer.Exit(2 if isinstance(error, RecipeError) else 1)


def _print_result(result: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(result))
        return
    for name, value in result.items():
        print(printable(f"{name}: {value:.4f}" if isinstance(value, float) else f"{name}: {value}"))


def run() -> None:
    """Run the command line. Output that cannot be written is one line on stderr, and so is Ctrl-C (exit code 130)."""
    try:
        prepare_standard_streams()
        redact_uncaught_errors()
        catch_interrupts("training")
        try:
            app()
        finally:
            sys.stdout.flush()
    except BaseException as error:
        if is_interrupted():
            exit_interrupted()
        if not isinstance(error, OutputError):
            raise
        print(f"training: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    run()
