"""Run `python -m training explain`: show on a film where a PyTorch model's predictions come from."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from engines.arrays import F32, U8
from engines.bundle import ModelSpec
from engines.printable import printable
from streamclf.classifier.explanation import Explainer, Explanation, Heat, choose_windows, explain_film
from streamclf.classifier.film_events import find_events
from streamclf.classifier.occlusion import Occlusion
from streamclf.classifier.offline import classify_file
from streamclf.classifier.window_classifier import offline_bank_slots
from streamclf.commands.annotate import SUFFIXES, DrawnHeat, write_annotated
from streamclf.commands.film_progress import FilmProgress
from streamclf.commands.report.builder import ReportBuilder
from streamclf.commands.report.page import OCCLUSION_TEXT
from streamclf.config.picture_area import PictureArea
from streamclf.errors import StreamclfError, UsageError
from streamclf.sources import Frame, Source
from streamclf.sources.resize import Box
from training.errors import RecipeError, RunError
from training.evaluation.attention_rollout import has_rollout, rollout
from training.evaluation.grad_cam import grad_cam, has_feature_maps
from training.evaluation.model_engine import ModelEngine
from training.fit.bundle_limits import spec_fields
from training.fit.run_folder import RECIPE_FILE, build_model, load_run, load_weights, run_labels, run_thresholds
from training.models import ClipModel
from training.recipe import Recipe, load_recipe

Method: TypeAlias = Literal["auto", "rollout", "grad-cam", "occlusion"]
MAX_BATCH = 16
REPORT_SUFFIXES = (".html", ".htm")

METHOD_TEXTS = {
    "rollout": (
        "Heat shows attention rollout: how much of each patch of the window reaches the classified token through all "
        "layers, relative to the largest share. It is the same for every label, and shows where the model reads, not "
        "which patches support the label. A patch with much attention need not change the prediction."
    ),
    "grad-cam": (
        "Heat shows Grad-CAM: where the last feature maps of the CNN raise the label's logit, relative to the largest "
        "value of the window. The maps are coarse, and the gradient holds only near this picture: removing a hot part "
        "need not change the prediction. A window without any heat has no part that raises the logit."
    ),
    "occlusion": OCCLUSION_TEXT,
}


def explain_run(
    target: Path,
    film: Path,
    output: Path,
    *,
    weights: Path | None = None,
    method: Method = "auto",
    windows: int = 12,
) -> dict[str, object]:
    """Explain windows of `film` with the model of a run or of a recipe, and write `output`: .mp4, .gif or .html.

    A recipe needs `weights`, a safetensors file, or its own key `start_from`. Returns what was done. Raises
    `TrainingError`.
    """
    _check_output(output, film)
    recipe, model, labels = _open(target, weights)
    torch.set_num_threads(recipe.threads)
    thresholds = run_thresholds(target) if target.is_dir() and recipe.activation == "sigmoid" else {}
    spec = _spec(recipe, labels, thresholds)
    engine = ModelEngine(model, spec, max_batch=MAX_BATCH, bank_slots=offline_bank_slots(spec, MAX_BATCH))
    chosen = _choose_method(method, model)
    try:
        size = film.stat().st_size if film.is_file() else 0
        with FilmProgress([size], passes=2 if output.suffix.lower() in REPORT_SUFFIXES else 3) as progress:
            progress.begin(str(film))
            explainer = _explainer(chosen, model, engine, progress)
            return _explain(engine, explainer, chosen, film, output, windows, progress, recipe.data.area)
    except UsageError as error:
        raise RecipeError(str(error)) from error
    except StreamclfError as error:
        raise RunError(str(error)) from error


class ModelExplainer:
    """An `Explainer` that computes heat (T, h, w) with the PyTorch model, relative to its largest value."""

    def __init__(self, compute: Callable[[Tensor, int], Tensor]) -> None:
        self._compute = compute

    def explain(self, chunks: U8, label: int, area: Box) -> Heat:
        """See `Explainer`. Bars of a letterbox are part of the picture for these methods."""
        heat: F32 = self._compute(torch.from_numpy(chunks), label).numpy().astype(np.float32)
        largest = float(heat.max())
        return Heat(maps=heat / largest if largest > 0 else heat)


def _explain(
    engine: ModelEngine,
    explainer: Explainer,
    method: str,
    film: Path,
    output: Path,
    limit: int,
    progress: FilmProgress,
    area: PictureArea,
) -> dict[str, object]:
    """Classify the film, explain the chosen windows, and write the output. `area`: the part that the recipe names."""
    spec = engine.spec
    report = None
    if output.suffix.lower() in REPORT_SUFFIXES:
        text = METHOD_TEXTS[method]
        report = ReportBuilder(output, spec, films=1, title=film.name, max_batch=MAX_BATCH, method=text, area=area)

    def watch(source: Source, frame: Frame) -> None:
        progress.watch(source, frame)
        if report is not None:
            report.watch(source, frame)

    def keep(explanation: Explanation) -> None:
        progress.tick()
        if report is not None:
            report.add_explanation(film, explanation)

    add_window = None if report is None else report.add_window
    result = classify_file(engine, film, on_frame=watch, on_window=add_window, area=area)
    events = find_events(result.windows, spec)
    progress.begin_pass("explaining")
    if report is not None:
        report.begin_explaining()
    numbers = choose_windows(events, len(result.windows), limit)
    explanations = explain_film(
        explainer, spec, film, result, numbers, hop=1, on_frame=watch, on_explained=keep, area=area
    )
    notes = [] if result.warning is None else [result.warning]
    if report is not None:
        report.add_film(film, result, events, truth=None, notes=notes)
        report.write()
    else:
        progress.begin_pass("drawing")
        heat = DrawnHeat(explanations=explanations, picture=(spec.height, spec.width), resize=spec.resize)
        note = write_annotated(film, output, result, spec, heat=heat, on_frame=progress.watch, area=area)
        notes += [] if note is None else [note]
    for line in notes:
        with progress.paused():
            print(f"training: warning: {printable(line)}", file=sys.stderr)
    return {"output": str(output), "method": method, "windows": len(result.windows), "explained": len(explanations)}


def _choose_method(method: Method, model: ClipModel) -> str:
    """Return the method to use. Raises `RecipeError` for one that the model has no use for."""
    if method == "auto":
        return "rollout" if has_rollout(model) else "grad-cam" if has_feature_maps(model) else "occlusion"
    if method == "rollout" and not has_rollout(model):
        raise RecipeError(f"--method rollout: {type(model).__name__} is no ViViT; give grad-cam, occlusion or auto")
    if method == "grad-cam" and not has_feature_maps(model):
        raise RecipeError(f"--method grad-cam: {type(model).__name__} has no CNN; give rollout, occlusion or auto")
    return method


def _explainer(method: str, model: ClipModel, engine: ModelEngine, progress: FilmProgress) -> Explainer:
    if method == "rollout":
        return ModelExplainer(lambda chunks, _: rollout(model, chunks))
    if method == "grad-cam":
        return ModelExplainer(lambda chunks, label: grad_cam(model, chunks, label))
    return Occlusion(engine, on_step=progress.tick)


def _open(target: Path, weights: Path | None) -> tuple[Recipe, ClipModel, tuple[str, ...]]:
    """Load the model of a run's folder, or of a recipe with weights."""
    if target.is_dir():
        recipe, model = load_run(target)
        if weights is not None:
            load_weights(model, weights)
        return recipe, model, run_labels(target, recipe)
    if not target.is_file():
        raise RunError(f"{target}: no such file or folder; give the folder that train wrote (with {RECIPE_FILE})")
    recipe = load_recipe(target, [])
    if weights is None and recipe.start_from is None:
        raise RecipeError(f"{target}: a recipe has no trained weights; give its run's folder, or --weights FILE")
    labels = recipe.data.label_names()
    model = build_model(recipe, len(labels))
    if weights is not None:
        load_weights(model, weights)
    return recipe, model.eval(), labels


def _spec(recipe: Recipe, labels: tuple[str, ...], thresholds: dict[str, float]) -> ModelSpec:
    """Return the spec that the model's bundle would have; it has no files."""
    return ModelSpec.model_construct(**spec_fields(recipe, labels, {}, thresholds), feature_shape=(1,), files={})


def _check_output(output: Path, film: Path) -> None:
    suffix = output.suffix.lower()
    if suffix not in (*SUFFIXES, *REPORT_SUFFIXES):
        raise RecipeError(f"-o {output}: must end in .mp4, .gif or .html")
    if output.is_dir():
        raise RecipeError(f"-o {output}: is a directory; give the name of a file")
    if not output.absolute().parent.is_dir():
        raise RecipeError(f"-o {output}: {output.absolute().parent} does not exist; create it first")
    if output.exists() and film.exists() and output.samefile(film):
        raise RecipeError(f"-o {output}: is the film itself; choose another name")
