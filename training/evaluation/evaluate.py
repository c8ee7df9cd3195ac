"""Evaluate a run or a bundle: on its run's validation clips, or on clips that it has never seen."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from engines.arrays import F32, I64, U8
from engines.backends.names import Backend, Precision
from engines.bundle import DEFAULT_THRESHOLD, SPEC_FILE, Activation, Bundle
from engines.errors import EngineError
from engines.opening import open_engine
from engines.printable import printable
from engines.protocol import Engine
from streamclf.builtin_models import find_bundle
from streamclf.config.picture_area import WHOLE, PictureArea
from streamclf.errors import StreamclfError
from streamclf.sources import Resize
from streamclf.windows.clip_layout import STRETCH_STEPS
from training.data.clip_cache import check_unreadable
from training.data.clip_lists import read_rows
from training.data.clips import Clips, split_name
from training.data.decode import DecodeSpec, decode_clip
from training.data.file_names import as_label
from training.data.shape import Shape
from training.data.volumes import VolumeClips, read_volumes
from training.data.windows import WindowsRecipe, validation_layout
from training.errors import DataError, RunError
from training.fit.lightning_module import predict_proba
from training.fit.metrics import scores
from training.fit.multi_label_metrics import multi_label_scores
from training.fit.run_folder import RECIPE_FILE, load_run, run_labels, run_thresholds
from training.fit.session import open_session, validate
from training.models import ClipModel

MAX_BATCH = 16


class Predictor(Protocol):
    """A model that predicts: a run's PyTorch model or a bundle's engine."""

    def predict_proba(self, chunks: U8, windows: I64) -> F32:
        """Return (W, K) probabilities from chunks (n, t, H, W, 3) and windows (W, T) of chunk numbers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipReader:
    """How a model reads clips: its labels, and how windows are cut and resized for it.

    `thresholds`: of independent labels, by label.
    """

    name: str
    labels: tuple[str, ...]
    activation: Activation = "softmax"
    thresholds: Mapping[str, float] = field(default_factory=dict)
    shape: Shape
    windows: WindowsRecipe
    resize: Resize
    volume_crop: tuple[int, int, int] | None = None
    area: PictureArea = WHOLE

    @property
    def decode_spec(self) -> DecodeSpec:
        """How the frames of a clip are sampled and scaled for the model."""
        return DecodeSpec(
            fps=self.shape.fps,
            frames_per_chunk=self.shape.frames_per_chunk,
            steps=STRETCH_STEPS if self.windows.fit == "stretch" else 1,
            height=self.shape.height,
            width=self.shape.width,
            resize=self.resize,
            area=self.area,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationTarget:
    """A model to evaluate."""

    reader: ClipReader
    predictor: Predictor
    close: Callable[[], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipPrediction:
    """The prediction for one clip: `probabilities` (K,) are the mean over its windows.

    `truth` and `predicted`: the indices of its true and predicted labels; one each, unless labels are independent.
    """

    name: str
    truth: tuple[int, ...]
    predicted: tuple[int, ...]
    frames: U8  # (F, H, W, 3), as the model received them
    probabilities: F32
    windows: int
    filled: int


@dataclass(slots=True)
class ReadCounts:
    """Clips that could not be read, with the reasons, and the number of clips shorter than a window."""

    unreadable: list[str] = field(default_factory=list)
    short: int = 0


def evaluate_run(run: Path) -> dict[str, Any]:
    """Compute the figures of a run's weights on its own validation clips."""
    recipe, model = load_run(run)
    torch.set_num_threads(recipe.threads)
    return validate(open_session(recipe, model), model)


def evaluate_on(
    target: Path,
    data: Path,
    *,
    split: str | None = None,
    windows: int | None = None,
    backend: Backend = "auto",
    precision: Precision = "fp32",
    on_clip: Callable[[ClipPrediction, Sequence[str]], None] | None = None,
) -> dict[str, Any]:
    """Compute the figures of a bundle or run on the clips of a list, folder or .npz, of one `split` or of all.

    `windows`: how many windows of each clip are averaged, instead of the recipe's number. `on_clip` is called with
    each clip's prediction and the labels. Raises `TrainingError`.
    """
    opened = open_target(target, windows=windows, backend=backend, precision=precision)
    reader, counts = opened.reader, ReadCounts()
    truth: list[tuple[int, ...]] = []
    probabilities: list[F32] = []
    try:
        for prediction in predict_clips(opened, data, split, counts):
            truth.append(prediction.truth)
            probabilities.append(prediction.probabilities)
            if on_clip is not None:
                on_clip(prediction, reader.labels)
    except (EngineError, StreamclfError) as error:
        raise RunError(str(error)) from error
    finally:
        opened.close()
    if not truth:
        raise DataError(f"{data}: no clip of it could be measured: {'; '.join(counts.unreadable[:5])}")
    for reason in counts.unreadable:
        print(f"left out: {printable(reason)}", file=sys.stderr, flush=True)
    result = _scores(np.stack(probabilities), truth, reader)
    return {
        "model": reader.name,
        "data": str(data),
        "split": split,
        **result,
        "skipped": len(counts.unreadable),
        "shorter_than_a_window": counts.short,
    }


def _scores(probabilities: F32, truth: Sequence[tuple[int, ...]], reader: ClipReader) -> dict[str, Any]:
    if reader.activation == "softmax":
        return scores(probabilities, np.array([own[0] for own in truth], np.int64), reader.labels)
    hot = np.array([[index in own for index in range(len(reader.labels))] for own in truth], np.int64)
    return multi_label_scores(probabilities, hot, reader.labels, reader.thresholds)


def open_target(target: Path, *, windows: int | None, backend: Backend, precision: Precision) -> EvaluationTarget:
    """Open a run's folder, or a bundle's folder or name. Raises `RunError` where `target` is neither."""
    if (target / RECIPE_FILE).is_file():
        return _open_run(target, windows)
    try:
        if target.is_dir() and not (target / SPEC_FILE).is_file():
            raise RunError(f"{target}: neither a bundle ({SPEC_FILE}) nor a run ({RECIPE_FILE}); finish or export it")
        return _open_bundle(find_bundle(str(target)), windows, backend, precision)
    except (EngineError, StreamclfError) as error:
        raise RunError(str(error)) from error


def _open_run(run: Path, windows: int | None) -> EvaluationTarget:
    recipe, model = load_run(run)
    torch.set_num_threads(recipe.threads)
    if recipe.data.cuts_windows:
        chosen = WindowsRecipe(measured=windows or 0)
    else:
        chosen = recipe.windows if windows is None else recipe.windows.model_copy(update={"measured": windows})
    reader = ClipReader(
        name=f"{recipe.name}@{recipe.version} ({run})",
        labels=run_labels(run, recipe),
        shape=recipe.shape,
        windows=chosen,
        resize=recipe.resize,
        volume_crop=recipe.data.volume_crop,
        area=recipe.data.area,
        activation=recipe.activation,
        thresholds=run_thresholds(run) if recipe.activation == "sigmoid" else {},
    )
    return EvaluationTarget(reader=reader, predictor=_TorchPredictor(model, recipe.activation), close=lambda: None)


def _open_bundle(bundle: Bundle, windows: int | None, backend: Backend, precision: Precision) -> EvaluationTarget:
    engine = open_engine(
        bundle, backend=backend, precision=precision, max_batch=MAX_BATCH, bank_slots=MAX_BATCH * bundle.spec.chunks
    )
    return EvaluationTarget(
        reader=bundle_reader(bundle, windows), predictor=_EnginePredictor(engine), close=engine.close
    )


def bundle_reader(bundle: Bundle, windows: int | None) -> ClipReader:
    """Describe how a bundle reads clips, `windows` of each; by default as many as a recipe's default."""
    spec = bundle.spec
    default = WindowsRecipe.model_fields["measured"].default
    return ClipReader(
        name=spec.id,
        labels=spec.labels,
        shape=Shape(
            fps=spec.fps,
            frames_per_chunk=spec.frames_per_chunk,
            chunks=spec.chunks,
            height=spec.height,
            width=spec.width,
        ),
        windows=WindowsRecipe(
            fit="stretch" if spec.whole_clips == "stretch" else "rate",
            short_clips=spec.short_clips,
            measured=default if windows is None else windows,
        ),
        resize=spec.resize,
        activation=spec.activation,
        thresholds=spec.thresholds,
    )


def predict_clips(
    target: EvaluationTarget, data: Path, split: str | None, counts: ReadCounts
) -> Iterator[ClipPrediction]:
    """Predict every clip of `data`. Raises `DataError`."""
    reader = target.reader
    shape = reader.shape
    for name, truth, frames in read_clips(reader, data, split, counts):
        layout = validation_layout(len(frames), shape, reader.windows)
        shown = frames[layout.frames]
        chunks = shown.reshape(-1, shape.frames_per_chunk, *frames.shape[1:])
        rows = target.predictor.predict_proba(np.ascontiguousarray(chunks), layout.windows)
        counts.short += layout.filled > 0
        probabilities = rows.mean(axis=0, dtype=np.float64).astype(np.float32)
        yield ClipPrediction(
            name=name,
            truth=truth,
            predicted=_predicted(probabilities, reader),
            frames=shown,
            probabilities=probabilities,
            windows=len(layout.windows),
            filled=layout.filled,
        )


def _predicted(probabilities: F32, reader: ClipReader) -> tuple[int, ...]:
    if reader.activation == "softmax":
        return (int(probabilities.argmax()),)
    limits = [np.float32(reader.thresholds.get(label, DEFAULT_THRESHOLD)) for label in reader.labels]
    return tuple(index for index, limit in enumerate(limits) if probabilities[index] >= limit)


def read_clips(
    reader: ClipReader, data: Path, split: str | None, counts: ReadCounts
) -> Iterator[tuple[str, tuple[int, ...], U8]]:
    """Yield (name, labels, frames (F, H, W, 3)) of every clip. Raises `DataError`."""
    if data.suffix == ".npz":
        yield from _read_volume_clips(reader, data, split)
        return
    notes: list[str] = []
    rows, folder = read_rows(data, notes=notes, multi_label=reader.activation == "sigmoid", known=reader.labels)
    for note in notes:
        print(f"note: {printable(note)}", file=sys.stderr, flush=True)
    if split is not None:
        wanted = split_name(split)
        chosen = [row for row in rows if row.split == wanted]
        if not chosen:
            found = sorted({row.split or "none" for row in rows})
            raise DataError(f"--split {split}: no clip of it in {data}; there are {', '.join(found)}")
        rows = chosen
    classes = [tuple(_class_index(reader, label, data) for label in row.labels) for row in rows]
    spec = reader.decode_spec
    for number, (row, truth) in enumerate(zip(rows, classes, strict=True), start=1):
        try:
            frames = decode_clip(folder / row.path, spec).frames
        except DataError as error:
            counts.unreadable.append(str(error))
            check_unreadable(counts.unreadable, len(rows))
            continue
        yield printable(row.path), truth, frames
        if number % 100 == 0:
            print(f"{number} of {len(rows)} clips", file=sys.stderr, flush=True)


def _read_volume_clips(reader: ClipReader, data: Path, split: str | None) -> Iterator[tuple[str, tuple[int, ...], U8]]:
    name = split_name(split or "test")
    volumes, classes = read_volumes(data, name, crop=reader.volume_crop)
    if len(classes) and classes.max() >= len(reader.labels):
        raise DataError(
            f"{data}: has class {classes.max()}, {reader.name} has only {len(reader.labels)} classes; give data of the "
            "same classes"
        )
    clips: Clips = VolumeClips(volumes, classes, split=split or "test", size=(reader.shape.height, reader.shape.width))
    for index, clip_name in enumerate(clips.names):
        yield clip_name, (int(classes[index]),), clips.frames(index)


def _class_index(reader: ClipReader, label: str, data: Path) -> int:
    try:
        return [as_label(own) for own in reader.labels].index(label)
    except ValueError:
        raise DataError(
            f"{data}: {reader.name} has no label {label!r} (it has {', '.join(reader.labels)}); remove the label's "
            "clips or rename it"
        ) from None


class _TorchPredictor:
    """Predict with a run's model."""

    def __init__(self, model: ClipModel, activation: Activation) -> None:
        self._model, self._activation = model, activation

    def predict_proba(self, chunks: U8, windows: I64) -> F32:
        """See `Predictor`."""
        with torch.inference_mode():
            batch = {"frames": torch.from_numpy(chunks), "windows": torch.from_numpy(windows)}
            return np.asarray(predict_proba(self._model, batch, self._activation).numpy(), np.float32)


class _EnginePredictor:
    """Predict with a bundle's engine: encode chunks into its bank, then classify windows from there."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def predict_proba(self, chunks: U8, windows: I64) -> F32:
        """See `Predictor`."""
        step = min(self._engine.max_batch, self._engine.bank_slots // windows.shape[1])
        return np.concatenate(
            [self._predict_some(chunks, windows[first : first + step]) for first in range(0, len(windows), step)]
        )

    def _predict_some(self, chunks: U8, windows: I64) -> F32:
        """Predict a few windows, whose chunks must all fit into the bank."""
        needed, slots = np.unique(windows, return_inverse=True)
        for first in range(0, len(needed), self._engine.max_batch):
            part = needed[first : first + self._engine.max_batch]
            self._engine.encode(chunks[part], np.arange(first, first + len(part), dtype=np.int32))
        return self._engine.classify(slots.reshape(windows.shape).astype(np.int32))
