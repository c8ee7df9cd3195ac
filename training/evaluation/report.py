"""The figures as pictures, and a page of clips with what was said of them."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import cv2
import matplotlib as mpl
import numpy as np

from engines.backends.names import Backend, Precision
from training.errors import RecipeError
from training.evaluation.evaluate import evaluate_on, evaluate_run
from training.fit.run_folder import HISTORY_FILE, RECIPE_FILE, read_json, read_recipe, run_labels

mpl.use("agg")

from matplotlib.figure import Figure

from streamclf.render.film_writer import GifWriter
from training.errors import RunError
from training.evaluation.evaluate import Answered
from training.fit.metrics import table

MAX_WRONG, MAX_RIGHT = 120, 60
"""Clips on the page: it is for looking at."""
SHOWN_SIDE, SHOWN_FPS, SHOWN_FRAMES = 160, 8, 32

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
    """Collects clips while they are answered, and writes `folder` in the end."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._clips: list[tuple[str, str, list[tuple[str, float]], str, bool]] = []
        self._counts = {True: 0, False: 0}
        try:
            (folder / "clips").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"{folder}: cannot be made ({error.strerror}); give -o another folder") from error

    def see(self, answered: Answered, labels: Sequence[str]) -> None:
        """Keep a clip's film: wrong ones sooner than right ones."""
        best = answered.probabilities.argsort()[::-1][:3]
        right = bool(best[0] == answered.truth)
        if self._counts[right] >= (MAX_RIGHT if right else MAX_WRONG):
            return
        self._counts[right] += 1
        name = f"{len(self._clips):04}.gif"
        write_gif(self._folder / "clips" / name, answered)
        said = [(labels[i], float(answered.probabilities[i])) for i in best]
        self._clips.append((answered.name, labels[answered.truth], said, name, right))

    def write(self, result: dict[str, Any], labels: Sequence[str], history: Sequence[dict[str, Any]]) -> None:
        """`index.html`, `confusion.png` and, of a run, `curves.png`."""
        draw_confusion(self._folder / "confusion.png", result["confusion"], labels)
        if history:
            draw_curves(self._folder / "curves.png", history)
        curves = '<img class="figure" src="curves.png" alt="learning curves">' if history else ""
        clips = "\n".join(_figure(*clip) for clip in sorted(self._clips, key=lambda clip: clip[4]))
        title = html.escape(f"{result['model']} on {result['data']}")
        (self._folder / "index.html").write_text(
            f"<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title><style>{_STYLE}</style>\n"
            f"<h1>{title}</h1><pre>{html.escape(table(result))}</pre>\n"
            f'<img class="figure" src="confusion.png" alt="confusion matrix">{curves}\n'
            f"<h2>Clips: {self._counts[False]} wrong, then {self._counts[True]} right</h2>\n<main>\n{clips}\n</main>\n",
            encoding="utf-8",
        )


def _figure(name: str, truth: str, said: Sequence[tuple[str, float]], file: str, right: bool) -> str:
    told = ", ".join(f"{html.escape(label)} {share:.0%}" for label, share in said)
    return (
        f'<figure class="{"right" if right else "wrong"}"><img src="clips/{file}" alt="" loading="lazy">'
        f"<figcaption>is <b>{html.escape(truth)}</b><br>said {told}<br><small>{html.escape(name)}</small></figcaption>"
        "</figure>"
    )


def write_gif(path: Path, answered: Answered) -> None:
    """The frames that the model was shown, at most `SHOWN_FRAMES` of them."""
    frames = answered.frames
    chosen = np.unique(np.linspace(0, len(frames) - 1, SHOWN_FRAMES).round().astype(int))
    scale = SHOWN_SIDE / max(frames.shape[1:3])
    size = (max(round(frames.shape[2] * scale), 1), max(round(frames.shape[1] * scale), 1))
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST
    with GifWriter(path) as film:
        for number, index in enumerate(chosen):
            picture = cv2.resize(np.ascontiguousarray(frames[index][..., ::-1]), size, interpolation=how)
            film.write(np.asarray(picture, np.uint8), number / SHOWN_FPS)


def draw_confusion(path: Path, matrix: Sequence[Sequence[int]], labels: Sequence[str]) -> None:
    """Rows are the truth; colour is the share of a row, numbers are clips."""
    counts = np.asarray(matrix)
    shares = counts / counts.sum(axis=1, keepdims=True).clip(min=1)
    side = 1.8 + 0.42 * len(labels)
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(labels)), labels, rotation=60, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(labels)), labels)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    if len(labels) <= 40:
        for row, column in np.argwhere(counts):
            colour = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, str(counts[row, column]), ha="center", va="center", color=colour, fontsize=9)
    figure.colorbar(image, label="share of the true class", shrink=0.7)
    figure.savefig(path, dpi=110)


def draw_curves(path: Path, history: Sequence[dict[str, Any]]) -> None:
    """Losses on the left, shares of right answers on the right, over steps."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for axes, names in ((left, ("train_label", "train_truth", "loss")), (right, ("top1", "balanced_accuracy", "auc"))):
        for name in names:
            points = [(row["step"], row[name]) for row in history if row.get(name) is not None]
            if points:
                label = {"loss": "held back", "train_label": "training", "train_truth": "training, besides"}.get(
                    name, name
                )
                axes.plot(*zip(*points, strict=True), label=label, marker="." if len(points) < 40 else None)
        axes.set_xlabel("step")
        axes.grid(alpha=0.3)
        axes.legend()
    left.set_ylabel("loss")
    right.set_ylabel("on clips held back")
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
    from training.evaluation.report import Report

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
        from training.evaluation.report import Report

        recipe = read_recipe(run)
        named = {**result, "model": f"{recipe.name}@{recipe.version}", "data": "clips held back"}
        history = read_json(run / HISTORY_FILE) if (run / HISTORY_FILE).is_file() else []
        Report(output).write(named, run_labels(run, recipe), history)
    return result
