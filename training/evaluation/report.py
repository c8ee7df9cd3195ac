"""Run the evaluate command, and write its report: charts, and a page of clips with their predictions."""

from __future__ import annotations

import html
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import cv2
import matplotlib as mpl
import numpy as np

from engines.backends.names import Backend, Precision
from engines.printable import printable
from streamclf.render.film_writer import GifWriter
from training.errors import RecipeError, RunError
from training.evaluation.evaluate import ClipPrediction, evaluate_on, evaluate_run
from training.fit.metrics import table
from training.fit.run_folder import HISTORY_FILE, RECIPE_FILE, read_json, read_recipe, run_labels

mpl.use("agg")

from matplotlib.figure import Figure

MAX_WRONG, MAX_RIGHT = 120, 60
"""The most wrong and correct clips on the page, so that a person can look through it."""
SHOWN_SIDE, SHOWN_FPS, SHOWN_FRAMES = 160, 8, 32

CURVES = ("top1", "balanced_accuracy", "map", "macro_f1", "auc")
"""The figures of the learning curves."""

_STYLE = """
body { font: 15px system-ui, sans-serif; margin: 2em auto; max-width: 1200px; padding: 0 1em; color: #222; }
main { display: grid; grid-template-columns: repeat(auto-fill, minmax(190px, 1fr)); gap: 14px; }
figure { margin: 0; padding: 8px; border-radius: 6px; border: 2px solid #3a7; }
figure.wrong { border-color: #c43; }
figure img { width: 100%; image-rendering: pixelated; }
figcaption { overflow-wrap: anywhere; font-size: 13px; }
pre { background: #f4f4f4; padding: 1em; overflow: auto; }
img.figure { max-width: 100%; }
"""


class Report:
    """Collect clips during an evaluation, and write them with the charts to `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._clips: list[tuple[str, str, list[tuple[str, float]], str, bool]] = []
        self._counts = {True: 0, False: 0}
        try:
            (folder / "clips").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"{folder}: cannot be created ({error.strerror}); give -o another folder") from error

    def add_clip(self, prediction: ClipPrediction, labels: Sequence[str]) -> None:
        """Write a clip's film for the page, unless the page already has enough clips of its sort, wrong or right."""
        best = prediction.probabilities.argsort()[::-1][:3]
        right = set(prediction.predicted) == set(prediction.truth)
        if self._counts[right] >= (MAX_RIGHT if right else MAX_WRONG):
            return
        self._counts[right] += 1
        name = f"{len(self._clips):04}.gif"
        write_gif(self._folder / "clips" / name, prediction)
        top = [(labels[i], float(prediction.probabilities[i])) for i in best]
        truth = " + ".join(labels[index] for index in prediction.truth) or "no label"
        self._clips.append((prediction.name, truth, top, name, right))

    def write(self, result: dict[str, Any], labels: Sequence[str], history: Sequence[dict[str, Any]]) -> None:
        """Write `index.html`, `confusion.png` unless labels are independent and, for a run, `curves.png`."""
        matrix = ""
        if "confusion" in result:
            draw_confusion(self._folder / "confusion.png", result["confusion"], labels)
            matrix = '<img class="figure" src="confusion.png" alt="confusion matrix">'
        if history:
            draw_curves(self._folder / "curves.png", history)
        curves = '<img class="figure" src="curves.png" alt="learning curves">' if history else ""
        clips = "\n".join(_figure(*clip) for clip in sorted(self._clips, key=lambda clip: clip[4]))
        title = html.escape(f"{result['model']} on {result['data']}")
        (self._folder / "index.html").write_text(
            f"<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title><style>{_STYLE}</style>\n"
            f"<h1>{title}</h1><pre>{html.escape(table(result))}</pre>\n"
            f"{matrix}{curves}\n"
            f"<h2>Clips: {self._counts[False]} wrong, then {self._counts[True]} right</h2>\n<main>\n{clips}\n</main>\n",
            encoding="utf-8",
        )


def _figure(name: str, truth: str, top: Sequence[tuple[str, float]], file: str, right: bool) -> str:
    predicted = ", ".join(f"{html.escape(label)} {share:.0%}" for label, share in top)
    return (
        f'<figure class="{"right" if right else "wrong"}"><img src="clips/{file}" alt="" loading="lazy">'
        f"<figcaption>true: <b>{html.escape(truth)}</b><br>"
        f"predicted: {predicted}<br><small>{html.escape(name)}</small></figcaption>"
        "</figure>"
    )


def write_gif(path: Path, prediction: ClipPrediction) -> None:
    """Write the frames that the model received as a GIF of at most `SHOWN_FRAMES` frames."""
    frames = prediction.frames
    chosen = np.unique(np.linspace(0, len(frames) - 1, SHOWN_FRAMES).round().astype(int))
    scale = SHOWN_SIDE / max(frames.shape[1:3])
    size = (max(round(frames.shape[2] * scale), 1), max(round(frames.shape[1] * scale), 1))
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST
    with GifWriter(path) as film:
        for number, index in enumerate(chosen):
            scaled = cv2.resize(np.ascontiguousarray(frames[index][..., ::-1]), size, interpolation=interpolation)
            film.write(np.asarray(scaled, np.uint8), number / SHOWN_FPS)


def draw_confusion(path: Path, matrix: Sequence[Sequence[int]], labels: Sequence[str]) -> None:
    """Draw the confusion matrix: rows are the true classes, colours are shares of a row, numbers count clips."""
    counts = np.asarray(matrix)
    shares = counts / counts.sum(axis=1, keepdims=True).clip(min=1)
    side = 1.8 + 0.42 * len(labels)
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    names = [printable(label) for label in labels]
    # Otherwise matplotlib reads a label with two dollar signs as a formula.
    axes.set_xticks(range(len(labels)), names, rotation=60, ha="right", rotation_mode="anchor", parse_math=False)
    axes.set_yticks(range(len(labels)), names, parse_math=False)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    if len(labels) <= 40:
        for row, column in np.argwhere(counts):
            colour = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, str(counts[row, column]), ha="center", va="center", color=colour, fontsize=9)
    figure.colorbar(image, label="share of the true class", shrink=0.7)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # an emoji is drawn as an empty box
        figure.savefig(path, dpi=110)


def draw_curves(path: Path, history: Sequence[dict[str, Any]]) -> None:
    """Draw the learning curves over steps: losses on the left, accuracies and AUC on the right."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for axes, names in ((left, ("train_label", "train_aux", "loss")), (right, CURVES)):
        for name in names:
            points = [(row["step"], row[name]) for row in history if row.get(name) is not None]
            if points:
                label = {"loss": "validation", "train_label": "training", "train_aux": "training, auxiliary"}.get(
                    name, name
                )
                axes.plot(*zip(*points, strict=True), label=label, marker="." if len(points) < 40 else None)
        axes.set_xlabel("step")
        axes.grid(alpha=0.3)
        axes.legend()
    left.set_ylabel("loss")
    right.set_ylabel("on validation clips")
    right.set_ylim(0, 1.02)
    figure.savefig(path, dpi=110)


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
    """Evaluate as the command's options say, and write the report where `output` is given.

    Raises `TrainingError`; `RecipeError` for options that do not go together.
    """
    for name, value, known in (("backend", backend, get_args(Backend)), ("precision", precision, get_args(Precision))):
        if value not in known:
            raise RecipeError(f"--{name} {value}: one of {', '.join(known)}")
    if data is None:
        if split is not None or windows is not None:
            raise RecipeError("--split and --windows go with --data; without it a run is measured as its recipe says")
        return _evaluate_validation_clips(target, output)
    report = None if output is None else Report(output)
    result = evaluate_on(
        target,
        data,
        split=split,
        windows=windows,
        backend=backend,
        precision=precision,
        on_clip=None if report is None else report.add_clip,
    )
    if report is not None:
        report.write(result, list(result["per_class"]), _read_history(target))
    return result


def _evaluate_validation_clips(run: Path, output: Path | None) -> dict[str, Any]:
    """Evaluate a run on its own validation clips."""
    result = evaluate_run(run)
    if output is not None:
        recipe = read_recipe(run)
        named = {**result, "model": f"{recipe.name}@{recipe.version}", "data": "validation clips"}
        Report(output).write(named, run_labels(run, recipe), _read_history(run))
    return result


def _read_history(target: Path) -> list[dict[str, Any]]:
    """Read the learning curve of a run; a bundle has none."""
    if not (target / RECIPE_FILE).is_file() or not (target / HISTORY_FILE).is_file():
        return []
    history: list[dict[str, Any]] = read_json(target / HISTORY_FILE)
    return history
