"""Define the commands that run, build and measure models on this machine."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import typer

from engines.backends.names import Backend, Precision
from streamclf.cli.options import FlipOption, Json, JsonObject, MaskOption, RegionOption, RotateOption, parse_path
from streamclf.errors import UsageError


def classify(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE…", help="Video files, and folders with video files.", parser=parse_path),
    ],
    model: Annotated[
        list[str], typer.Option(help="Built-in model, or directory of a bundle. Several --model read each film once.")
    ] = ["camera-events"],  # noqa: B006 - typer reads it
    as_json: Json = False,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            help="FILM.mp4 or FILM.gif: the film with predictions drawn on it, for one FILE. RESULTS.parquet: a table "
            "of all windows of any number of films, which a later run completes.",
        ),
    ] = None,
    csv: Annotated[Path | None, typer.Option("--csv", help="Write the events of all films to this .csv file.")] = None,
    report: Annotated[
        Path | None, typer.Option(help="Write a page with timelines, stills and figures to this .html file.")
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(
            help="True labels: a CSV with the columns path,label, or the folder with a folder for each label."
        ),
    ] = None,
    explain: Annotated[
        bool,
        typer.Option(
            "--explain", help="Draw as heat on which parts of the picture a prediction depends; takes longer."
        ),
    ] = False,
    explain_windows: Annotated[
        int, typer.Option(min=1, max=500, help="With --explain: the most windows of each film to explain.")
    ] = 12,
    hop: Annotated[int, typer.Option(min=1, help="Chunks between two windows.")] = 1,
    region: RegionOption = None,
    mask: MaskOption = None,
    rotate: RotateOption = 0,
    flip: FlipOption = None,
    decode: Annotated[
        Literal["exact", "fast", "auto"],
        typer.Option(help="How exactly the films are decoded, as `decode` of the configuration."),
    ] = "exact",
    backend: Annotated[Backend, typer.Option(help="Library that runs the model.")] = "auto",
    precision: Annotated[Precision, typer.Option(help="Number format of the computation.")] = "auto",
    workers: Annotated[
        int, typer.Option(min=0, max=1024, help="With RESULTS.parquet: processes; 0 is one for each core.")
    ] = 0,
    fleet: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT", help="With RESULTS.parquet: the Ray cluster that classifies; `auto` finds one."
        ),
    ] = None,
) -> int:
    """Classify the windows of video files.

    Prints a table for each file, or one JSON line. A file that cannot be read is reported, the others are classified,
    and the exit code is 1. With `-o RESULTS.parquet` it classifies an archive of thousands of files, or s3://BUCKET/…,
    on all cores or on a cluster. After an interruption, the same command continues.
    """
    from streamclf.commands.area_options import parse_area
    from streamclf.commands.classify import run_classify
    from streamclf.commands.classify_outputs import ClassifyOutputs

    outputs = ClassifyOutputs(
        as_json=as_json,
        film=output,
        csv=csv,
        report=report,
        labels=labels,
        explain_windows=explain_windows if explain else 0,
    )
    area = parse_area(region=region, masks=mask, rotate=rotate, flip=flip)
    if output is not None and output.suffix.lower() == ".parquet":
        from streamclf.commands.classify_archive import run_archive

        classify_films = None
        if fleet is not None:
            from streamclf.fleet.archive import classify_on_cluster

            classify_films = partial(classify_on_cluster, address=None if fleet == "auto" else fleet)
        return run_archive(
            files,
            output,
            models=model,
            hop=hop,
            backend=backend,
            precision=precision,
            area=area,
            decode=decode,
            workers=workers,
            classify=classify_films,
            unused={"--json": as_json, "--csv": csv, "--report": report, "--labels": labels, "--explain": explain},
        )
    if workers or fleet:
        raise UsageError(f"{'--workers' if workers else '--fleet'}: only with -o RESULTS.parquet")
    return run_classify(
        files, outputs, models=model, hop=hop, backend=backend, precision=precision, area=area, decode=decode
    )


def teach(
    folder: Annotated[
        Path | None,
        typer.Argument(
            metavar="FOLDER",
            help="Folder with one subfolder of films for each label; may be left out with --add.",
            parser=parse_path,
            show_default=False,
        ),
    ] = None,
    *,
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the bundle.", parser=parse_path)],
    base: Annotated[
        str | None,
        typer.Option(
            help="Built-in model, or directory of a bundle, whose encoder is used; default: everyday, with --add the "
            "bundle's own.",
            show_default=False,
        ),
    ] = None,
    add: Annotated[
        bool, typer.Option("--add", help="Go on from the examples of the bundle at OUTPUT, and replace it.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace a bundle at OUTPUT.")] = False,
    none_label: Annotated[
        str, typer.Option(help="Label for scenes unlike all examples, and of films in a folder `none`.")
    ] = "none of these",
    no_none: Annotated[bool, typer.Option("--no-none", help="Teach no label for scenes unlike all examples.")] = False,
    region: RegionOption = None,
    mask: MaskOption = None,
    rotate: RotateOption = 0,
    flip: FlipOption = None,
    window: Annotated[
        float | None,
        typer.Option(help="Length of a window in seconds; default: the base's.", show_default=False),
    ] = None,
    threads: Annotated[int, typer.Option(min=0, max=1024, help="Most processor cores to use; 0: all.")] = 0,
    as_json: Json = False,
) -> int:
    """Teach a model from a few films of each label, in about a minute, without PyTorch.

    Prints how well it does on films that were held out, which ones it gets wrong, and what to film next. The bundle
    also holds its examples and a report, report.html.
    """
    from streamclf.commands.area_options import parse_area
    from streamclf.commands.teach.command import run_teach
    from streamclf.teach.inputs import TeachOptions

    options = TeachOptions(
        folder=folder,
        output=output,
        base=base,
        add=add,
        force=force,
        none_label=None if no_none else none_label,
        area=parse_area(region=region, masks=mask, rotate=rotate, flip=flip),
        window_s=window,
        threads=threads,
    )
    return run_teach(options, as_json=as_json)


def compile_model(
    model: Annotated[str, typer.Argument(metavar="BUNDLE", help="Built-in model, or directory of a bundle.")],
    backend: Annotated[Backend, typer.Option(help="Library that will run the model.")] = "auto",
    precision: Annotated[Precision, typer.Option(help="Number format of the computation.")] = "auto",
    max_batch: Annotated[
        int, typer.Option(min=1, max=256, help="Largest number of chunks in one encode, as in the service.")
    ] = 16,
    device: Annotated[
        int | None,
        typer.Option(
            min=0, max=63, help="Number of the GPU, as nvidia-smi shows it; default: the first.", show_default=False
        ),
    ] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Name the graph or the layers that lose accuracy in fp16 or bf16.")
    ] = False,
    calibration: Annotated[
        Path | None, typer.Option(help="Windows to calibrate INT8 with: an .npz of `python -m training windows`.")
    ] = None,
    validation: Annotated[
        Path | None, typer.Option(help="Windows to compare accuracy with fp32 on: another .npz.")
    ] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Directory for the new INT8 bundle.")] = None,
    triton: Annotated[
        Path | None,
        typer.Option(
            help="Build no engine; write both graphs into this model repository of a Triton Inference Server."
        ),
    ] = None,
    as_json: Json = False,
) -> int:
    """Build, check and measure the engine of a model.

    The cache keeps the engine, so the next start of a service does not wait for the build. With TensorRT a build takes
    minutes.
    """
    from streamclf.commands.compile import run_compile

    return run_compile(
        model,
        backend=backend,
        precision=precision,
        max_batch=max_batch,
        device=device,
        explain=explain,
        calibration=calibration,
        validation=validation,
        output=output,
        triton=triton,
        as_json=as_json,
    )


def bench(
    target: Annotated[
        str | None,
        typer.Argument(
            metavar="CONFIG|BUNDLE",
            help="Configuration of a service, or a bundle; default: camera-events.",
            show_default=False,
        ),
    ] = None,
    streams: Annotated[
        int | None,
        typer.Option(min=1, max=400, help="Measure a service with this many simulated cameras.", show_default=False),
    ] = None,
    size: Annotated[
        str | None, typer.Option(help="Frame size of the cameras in pixels; default: 1280x720.", show_default=False)
    ] = None,
    fps: Annotated[
        float | None, typer.Option(help="Frames per second of each camera; default: 25.", show_default=False)
    ] = None,
    hop: Annotated[
        int | None,
        typer.Option(
            min=1, max=1024, help="Chunks between two predictions; default: 1, or as in CONFIG.", show_default=False
        ),
    ] = None,
    seconds: Annotated[
        float | None,
        typer.Option(
            min=0.05,
            max=86400,
            help="Seconds to measure; default: service 20, step of --capacity 10, round of a bundle 0.25, GPU suite 5.",
            show_default=False,
        ),
    ] = None,
    backend: Annotated[
        Backend | None,
        typer.Option(
            help="Library that runs the model; default: auto for a service, all for a bundle.", show_default=False
        ),
    ] = None,
    precision: Annotated[
        Precision | None,
        typer.Option(help="Number format; default: auto for a service, all for a bundle.", show_default=False),
    ] = None,
    max_batch: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=256,
            help="Largest number of chunks in one encode; default: 16, in the GPU suite 256.",
            show_default=False,
        ),
    ] = None,
    decode: Annotated[
        Literal["auto", "exact", "fast", "both"] | None,
        typer.Option(
            help="How the service decodes; both: measure exact and fast in turn, and compare them; default: auto, or "
            "as in CONFIG.",
            show_default=False,
        ),
    ] = None,
    capacity: Annotated[
        bool, typer.Option("--capacity", help="Search how many cameras this machine sustains.")
    ] = False,
    suite: Annotated[
        Literal["gpu"] | None, typer.Option(help="gpu: check and measure bundles in every precision on this GPU.")
    ] = None,
    only: Annotated[
        str | None, typer.Option(help="With --suite: only parts whose name matches this pattern, like 'gestures/*'.")
    ] = None,
    keep: Annotated[
        Path | None,
        typer.Option(help="With --suite: log each part in this file, and skip parts that it already holds."),
    ] = None,
    as_json: JsonObject = False,
) -> int:
    """Measure a model, or a whole service with simulated cameras.

    A bundle is measured alone: every backend, precision and batch size. With --streams or CONFIG the whole service is
    measured: predictions per second, latency, processor time and memory. --capacity searches how many cameras this
    machine sustains. Measure on a machine that does nothing else.
    """
    from streamclf.bench.command import run_bench

    return run_bench(
        target,
        streams=streams,
        size=size,
        fps=fps,
        seconds=seconds,
        hop=hop,
        backend=backend,
        precision=precision,
        max_batch=max_batch,
        decode=decode,
        capacity=capacity,
        suite=suite,
        only=only,
        keep=keep,
        as_json=as_json,
    )


def doctor(as_json: JsonObject = False) -> int:
    """Report what this machine can run, and what to install.

    Opens each built-in model on the backend that `auto` chooses. The exit code is 1 if no model can run.
    """
    from streamclf.commands.doctor import run_doctor

    return run_doctor(as_json=as_json)
