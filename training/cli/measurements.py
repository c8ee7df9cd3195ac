"""Define the commands that measure models or explain their predictions."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from engines.backends.names import Backend, Precision
from engines.printable import printable
from training.cli.options import Json, print_result
from training.errors import RecipeError


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
    from training.fit.metrics import table

    result = run_evaluate(
        target, data, split=split, windows=windows, backend=backend, precision=precision, output=output
    )
    print_result(result, as_json=as_json, as_text=table)


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

    result = measure_list(
        bundle,
        films,
        config=actions,
        stream=stream,
        tolerance_s=tolerance,
        backend=backend,
        precision=precision,
    )
    print_result(result, as_json=as_json, as_text=live_text)
    for warning in result["warnings"]:
        print(f"training: {printable(warning)}", file=sys.stderr)


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

    result = explain_run(target, film, output, weights=weights, method=method, windows=windows)
    print_result(result, as_json=as_json)


def camera_events_benchmark(
    data: Annotated[
        Path,
        typer.Option(help="folder with clips/ and fight/, and maybe fixed-cameras/ and photos/; or with real-events/"),
    ],
    bundle: Annotated[Path, typer.Option(help="the bundle to measure")] = Path("streamclf/bundles/camera-events"),
    precision: Annotated[Precision, typer.Option(help="precision of its engine")] = "fp32",
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="choose biases on the tuning half; the figures include them")
    ] = False,
    is_live: Annotated[
        bool, typer.Option("--live", help="measure actions instead: events, false starts, seconds to the event")
    ] = False,
    is_real: Annotated[
        bool, typer.Option("--real", help="measure film in which something really happens to a camera instead")
    ] = False,
    as_json: Json = False,
) -> None:
    """Measure `camera-events` on real film, undisturbed and with each disturbance. Takes minutes."""
    from engines.bundle import load_bundle
    from engines.opening import open_engine
    from training.builtin.camera_events.benchmark import cases, real_films, real_photos
    from training.builtin.camera_events.calibration import choose_biases, with_biases
    from training.builtin.camera_events.figures import as_text, classify_cases, compute_figures
    from training.evaluation.camera_events_live import camera_events_text, measure_camera_events
    from training.evaluation.live import live_bank_slots
    from training.evaluation.real_events import FOLDER, measure_real_events, read_real_films, real_events_text

    if is_live + calibrate + is_real > 1:
        raise RecipeError("--calibrate, --live and --real measure different things; give one of them")
    loaded = load_bundle(bundle)
    if is_real:
        listed = read_real_films(data / FOLDER)
        engine = open_engine(loaded, precision=precision, bank_slots=live_bank_slots(loaded.spec, 16))
        print_result(measure_real_events(engine, listed), as_json=as_json, as_text=real_events_text)
        return
    if is_live:
        engine = open_engine(loaded, precision=precision, bank_slots=live_bank_slots(loaded.spec, 16))
        live = measure_camera_events(engine, real_films(data))
        print_result({"live": live}, as_json=as_json, as_text=lambda _: camera_events_text(live))
        return
    engine = open_engine(loaded, precision=precision)
    predictions = classify_cases(engine, cases([*real_films(data), *real_photos(data)], loaded.spec))
    biases = choose_biases(predictions) if calibrate else {}
    result = {**compute_figures(with_biases(predictions, biases)), "biases": biases}
    print_result(result, as_json=as_json, as_text=as_text)
    if calibrate and not as_json:
        print("biases: " + " ".join(f"--bias {label}={value:g}" for label, value in biases.items()))
