"""Define the commands that write bundles."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Final

import typer

from engines.printable import printable
from training.errors import RecipeError

MAX_BIAS: Final = 100
"""The largest bias. Logits are much smaller; one of this size makes every other label impossible."""


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
    print(printable(f"{bundle.spec.id}: {output}"))


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

    bundle = export_run(run, output, figures=figures or (), biases=_parse_biases(bias or []))
    print(printable(f"{bundle.spec.id}: {output}"))


def export_everyday(
    weights: Annotated[Path, typer.Argument(help=".safetensors of timm's mobilenetv2_100 with 1001 classes")],
    labels: Annotated[Path, typer.Option(help="text file: `background`, then ImageNet's 1000 classes, one a line")],
    output: Annotated[Path, typer.Option("-o", "--output", help="the bundle's folder")],
) -> None:
    """Write the built-in base bundle `everyday` from the published ImageNet weights."""
    from training.export.everyday import export_everyday as export_base

    bundle = export_base(weights, labels, output)
    print(printable(f"{bundle.spec.id}: {output}"))


def _parse_biases(given: list[str]) -> dict[str, float]:
    """Parse `["noise=0.5"]` into `{"noise": 0.5}`."""
    biases: dict[str, float] = {}
    for item in given:
        label, _, text = item.rpartition("=")  # the label may contain the sign
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not label or not abs(value) <= MAX_BIAS:
            raise RecipeError(
                f"--bias {item}: give a label and a number from {-MAX_BIAS} to {MAX_BIAS}, like noise=0.5"
            )
        if label in biases:
            raise RecipeError(f"--bias {item}: {label} has the bias {biases[label]:g} already; keep one of them")
        biases[label] = value
    return biases
