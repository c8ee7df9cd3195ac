"""How well a run or a bundle does: on what its training held back, or on clips that it has never seen."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from engines.arrays import F32, I64, U8
from engines.backends.names import Backend, Precision
from engines.bundle import SPEC_FILE, Bundle
from engines.errors import EngineError
from engines.opening import open_engine
from engines.protocol import Engine
from streamclf.builtin_models import find_bundle
from streamclf.errors import StreamclfError
from streamclf.sources import Resize
from training.data.batches import layout
from training.data.clip_cache import MAX_UNREADABLE
from training.data.clip_lists import read_rows
from training.data.clips import SPLITS, Clips
from training.data.decode import DecodeSpec, decode_clip
from training.data.recipes import CameraEventsData, MixedData, Shape, VolumesData, WindowsRecipe
from training.data.volumes import VolumeClips, read_volumes
from training.errors import DataError, RunError
from training.fit.lightning_module import answer
from training.fit.metrics import scores
from training.fit.run_folder import RECIPE_FILE, load_run, run_labels
from training.fit.train import measure, open_work
from training.models import ClipModel
from training.recipe import resize_of

STRETCH_STEPS = 4
"""Frames decoded for each one at the model's rate, where a clip is stretched to a window."""
MAX_BATCH = 16


class Answers(Protocol):
    """A model that answers: PyTorch's or an engine's."""

    def probabilities(self, chunks: U8, windows: I64) -> F32:
        """Chunks (n, t, H, W, 3) and windows (W, T) of their numbers -> (W, K)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What is measured: a model that answers, and what it must be given."""

    name: str
    labels: tuple[str, ...]
    shape: Shape
    windows: WindowsRecipe
    resize: Resize
    keep: tuple[int, int, int] | None
    answers: Answers
    close: Callable[[], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """One clip and what was said of it: `probabilities` (K,), the mean over its windows."""

    name: str
    truth: int
    frames: U8  # (F, H, W, 3), as the model was shown them
    probabilities: F32
    windows: int
    filled: int


@dataclass(slots=True)
class Counted:
    """What was noticed while clips were read."""

    unreadable: list[str] = field(default_factory=list)
    short: int = 0


def evaluate_run(run: Path) -> dict[str, Any]:
    """The figures of the run's weights on the clips that its training held back."""
    recipe, model = load_run(run)
    torch.set_num_threads(recipe.threads)
    work = open_work(recipe, model)
    return work.trainee.judge(measure(model, work.held_back, len(work.labels)))


def evaluate_on(
    target: Path,
    data: Path,
    *,
    split: str | None = None,
    windows: int | None = None,
    backend: Backend = "auto",
    precision: Precision = "fp32",
    see: Callable[[Answered, Sequence[str]], None] | None = None,
) -> dict[str, Any]:
    """The figures of a bundle or run on the clips of a list, folder or .npz (of one `split`, or all).

    `windows`: how many of each clip are averaged, if not as the recipe says. `see` is called with each clip. Raises
    `TrainingError`.
    """
    subject = open_subject(target, windows=windows, backend=backend, precision=precision)
    counted = Counted()
    truth: list[int] = []
    said: list[F32] = []
    try:
        for answered in answer_clips(subject, data, split, counted):
            truth.append(answered.truth)
            said.append(answered.probabilities)
            if see is not None:
                see(answered, subject.labels)
    except (EngineError, StreamclfError) as error:
        raise RunError(str(error)) from error
    finally:
        subject.close()
    if not truth:
        raise DataError(f"{data}: not one clip could be measured: {'; '.join(counted.unreadable[:5])}")
    for reason in counted.unreadable:
        print(f"left out: {reason}", file=sys.stderr, flush=True)
    result = scores(np.stack(said), np.array(truth, np.int64), subject.labels)
    return {
        "model": subject.name,
        "data": str(data),
        "split": split,
        **result,
        "skipped": len(counted.unreadable),
        "shorter_than_a_window": counted.short,
    }


def open_subject(target: Path, *, windows: int | None, backend: Backend, precision: Precision) -> Subject:
    """A run's folder, or a bundle's folder or name. Raises `RunError` where it is neither."""
    if (target / RECIPE_FILE).is_file():
        return _run_subject(target, windows)
    try:
        if target.is_dir() and not (target / SPEC_FILE).is_file():
            raise RunError(f"{target}: neither a bundle ({SPEC_FILE}) nor a run ({RECIPE_FILE}); finish or export it")
        return _engine_subject(find_bundle(str(target)), windows, backend, precision)
    except (EngineError, StreamclfError) as error:
        raise RunError(str(error)) from error


def _run_subject(run: Path, windows: int | None) -> Subject:
    recipe, model = load_run(run)
    torch.set_num_threads(recipe.threads)
    data = recipe.data
    parts = [part.data for part in data.parts] if isinstance(data, MixedData) else [data]
    chosen = recipe.windows if windows is None else recipe.windows.model_copy(update={"measured": windows})
    return Subject(
        name=f"{recipe.name}@{recipe.version} ({run})",
        labels=run_labels(run, recipe),
        shape=recipe.shape,
        windows=chosen if not isinstance(data, CameraEventsData) else WindowsRecipe(measured=windows or 0),
        resize=resize_of(recipe),
        keep=next((part.keep for part in parts if isinstance(part, VolumesData)), None),
        answers=_Torch(model),
        close=lambda: None,
    )


def _engine_subject(bundle: Bundle, windows: int | None, backend: Backend, precision: Precision) -> Subject:
    engine = open_engine(
        bundle, backend=backend, precision=precision, max_batch=MAX_BATCH, bank_slots=MAX_BATCH * bundle.spec.chunks
    )
    return bundle_subject(bundle, windows, answers=_Engine(engine), close=engine.close)


def bundle_subject(
    bundle: Bundle, windows: int | None, *, answers: Answers | None = None, close: Callable[[], None] = lambda: None
) -> Subject:
    """How a bundle is shown clips, `windows` of each; without `answers`, for one who wants the pixels alone."""
    spec = bundle.spec
    default = WindowsRecipe.model_fields["measured"].default
    return Subject(
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
            measured=default if windows is None else windows,
        ),
        resize=spec.resize,
        keep=None,
        answers=answers or _Nobody(),
        close=close,
    )


def answer_clips(subject: Subject, data: Path, split: str | None, counted: Counted) -> Iterator[Answered]:
    """Every clip of `data`, as it is answered. Raises `DataError`."""
    shape = subject.shape
    for name, truth, frames in read_clips(subject, data, split, counted):
        laid = layout(len(frames), shape, subject.windows)
        shown = frames[laid.frames]
        chunks = shown.reshape(-1, shape.frames_per_chunk, *frames.shape[1:])
        rows = subject.answers.probabilities(np.ascontiguousarray(chunks), laid.windows)
        counted.short += laid.filled > 0
        yield Answered(
            name=name,
            truth=truth,
            frames=shown,
            probabilities=rows.mean(axis=0, dtype=np.float64).astype(np.float32),
            windows=len(laid.windows),
            filled=laid.filled,
        )


def read_clips(subject: Subject, data: Path, split: str | None, counted: Counted) -> Iterator[tuple[str, int, U8]]:
    """(name, class, (F, H, W, 3)) of every clip. Raises `DataError`."""
    if data.suffix == ".npz":
        yield from _volumes(subject, data, split)
        return
    rows, base = read_rows(data)
    if split is not None:
        wanted = SPLITS.get(split.lower(), split)
        chosen = [row for row in rows if row.split == wanted]
        if not chosen:
            there = sorted({row.split or "none" for row in rows})
            raise DataError(f"--split {split}: no clip of it in {data}; there are {', '.join(there)}")
        rows = chosen
    for row in rows:
        _class(subject, row.label, data)
    shape, stretched = subject.shape, subject.windows.fit == "stretch"
    spec = DecodeSpec(
        fps=shape.fps,
        frames_per_chunk=shape.frames_per_chunk,
        steps=STRETCH_STEPS if stretched else 1,
        height=shape.height,
        width=shape.width,
        resize=subject.resize,
    )
    for number, row in enumerate(rows, start=1):
        try:
            frames = decode_clip(base / row.path, spec).frames
        except DataError as error:
            counted.unreadable.append(str(error))
            _check_share(counted, len(rows))
            continue
        yield row.path, _class(subject, row.label, data), frames
        if number % 100 == 0:
            print(f"{number} of {len(rows)} clips", file=sys.stderr, flush=True)


def _check_share(counted: Counted, clips: int) -> None:
    if len(counted.unreadable) > MAX_UNREADABLE * clips:
        raise DataError(
            f"{len(counted.unreadable)} of {clips} clips cannot be read, at most {MAX_UNREADABLE:.0%} may: "
            + "; ".join(counted.unreadable[:5])
        )


def _volumes(subject: Subject, data: Path, split: str | None) -> Iterator[tuple[str, int, U8]]:
    volumes, classes = read_volumes(data, SPLITS.get((split or "test").lower(), split or "test"), keep=subject.keep)
    if len(classes) and classes.max() >= len(subject.labels):
        raise DataError(f"{data}: has class {classes.max()}, {subject.name} knows {len(subject.labels)}")
    clips: Clips = VolumeClips(
        volumes, classes, split=split or "test", size=(subject.shape.height, subject.shape.width)
    )
    for index, name in enumerate(clips.names):
        yield name, int(classes[index]), clips.frames(index)


def _class(subject: Subject, label: str, data: Path) -> int:
    try:
        return subject.labels.index(label)
    except ValueError:
        raise DataError(
            f"{data}: label {label!r} is not one that {subject.name} knows ({', '.join(subject.labels)}); take its "
            "clips out or rename it"
        ) from None


class _Nobody:
    """For a subject that is only shown clips."""

    def probabilities(self, chunks: U8, windows: I64) -> F32:
        """See `Answers`."""
        raise NotImplementedError("this subject has no model that answers")


class _Torch:
    """A run's model."""

    def __init__(self, model: ClipModel) -> None:
        self._model = model

    def probabilities(self, chunks: U8, windows: I64) -> F32:
        """See `Answers`."""
        with torch.inference_mode():
            batch = {"frames": torch.from_numpy(chunks), "windows": torch.from_numpy(windows)}
            return np.asarray(answer(self._model, batch).numpy(), np.float32)


class _Engine:
    """A bundle's engine: chunks into its bank, windows from there."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def probabilities(self, chunks: U8, windows: I64) -> F32:
        """See `Answers`."""
        step = min(self._engine.max_batch, self._engine.bank_slots // windows.shape[1])
        return np.concatenate(
            [self._some(chunks, windows[first : first + step]) for first in range(0, len(windows), step)]
        )

    def _some(self, chunks: U8, windows: I64) -> F32:
        """So few windows that all their chunks fit into the bank."""
        needed, slots = np.unique(windows, return_inverse=True)
        for first in range(0, len(needed), self._engine.max_batch):
            part = needed[first : first + self._engine.max_batch]
            self._engine.encode(chunks[part], np.arange(first, first + len(part), dtype=np.int32))
        return self._engine.classify(slots.reshape(windows.shape).astype(np.int32))
