"""Write windows of labelled clips, with which `streamclf compile` calibrates INT8 and measures its loss of accuracy.

The windows have a bundle's own rate and size. They are cut and resized as in evaluation.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from engines.arrays import U8
from engines.bundle import Bundle
from engines.errors import EngineError
from streamclf.builtin_models import find_bundle
from streamclf.errors import StreamclfError
from training.data.windows import validation_layout
from training.errors import DataError, RunError
from training.evaluation.evaluate import ReadCounts, bundle_reader, read_clips

COUNT: Final = 256
MAX_BYTES: Final = 4 << 30
"""The most bytes of all windows together, because all are in memory at the same time."""

Labelled = tuple[tuple[int, ...], U8]
"""(classes, window (T, t, H, W, 3))."""


def write_windows(
    model: Path, data: Path, output: Path, *, split: str | None = None, count: int = COUNT, disturbed: bool = False
) -> dict[str, Any]:
    """Write up to `count` windows of `data` and their classes to the .npz file `output`, completely or not at all.

    Each class gets an equal share, drawn from its windows with a fixed seed. `data` is a list or folder of clips, of
    one `split` or of all. With `disturbed` it is the folder of the camera-events benchmark, whose splits are `tuning`
    and `held-out`. Returns the number of windows by label. Raises `TrainingError`.
    """
    try:
        bundle = find_bundle(str(model))
    except (EngineError, StreamclfError) as error:
        raise RunError(str(error)) from error
    spec = bundle.spec
    nbytes = count * spec.chunks * int(np.prod(spec.chunk_shape))
    if count < 1 or nbytes > MAX_BYTES:
        raise DataError(f"--count {count}: {nbytes / 1e9:.1f} GB of pixels; 1 window to {MAX_BYTES / 1e9:.1f} GB")
    classes = len(spec.labels) + (spec.activation == "sigmoid")  # windows without a label are a class, too
    try:
        source = _benchmark_windows(bundle, data, split) if disturbed else _clip_windows(bundle, data, split)
        sampled = _sample_per_class(source, classes=classes, count=count)
    except (EngineError, StreamclfError) as error:
        raise RunError(str(error)) from error
    if not sampled:
        raise DataError(f"{data}: no window of it can be used; does the split --split {split} exist?")
    truth = [own for own, _ in sampled]
    labels = np.array([[index in own for index in range(len(spec.labels))] for own in truth], np.int64)
    if spec.activation == "softmax":
        labels = labels.argmax(axis=1)
    _write(output, np.stack([window for _, window in sampled]), labels)
    found = {name: sum(index in own for own in truth) for index, name in enumerate(spec.labels)}
    return {"model": spec.id, "windows": len(labels), **{name: number for name, number in found.items() if number}}


def _clip_windows(bundle: Bundle, data: Path, split: str | None) -> Iterator[Labelled]:
    reader = bundle_reader(bundle, None)
    for _, truth, frames in read_clips(reader, data, split, ReadCounts()):
        layout = validation_layout(len(frames), reader.shape, reader.windows)
        chunks = frames[layout.frames].reshape(-1, reader.shape.frames_per_chunk, *frames.shape[1:])
        for window in layout.windows:
            yield truth, chunks[window]


def _benchmark_windows(bundle: Bundle, data: Path, split: str | None) -> Iterator[Labelled]:
    from training.builtin.camera_events.benchmark import NOT_FIXED, cases, real_films

    films = [film for film in real_films(data) if film.path.name not in NOT_FIXED and split in (None, film.half)]
    for case in cases(films, bundle.spec):
        if case.label not in bundle.spec.labels:
            raise DataError(f"--disturbed: {bundle.spec.id} has no label {case.label}; the option is for camera-events")
        yield (bundle.spec.labels.index(case.label),), case.frames


@dataclass(slots=True)
class _Reservoir:
    """A uniform random sample of up to `size` items from a stream of unknown length (reservoir sampling)."""

    size: int
    added: int = 0
    kept: list[Labelled] = field(default_factory=list)

    def add(self, item: Labelled, rng: np.random.Generator) -> None:
        self.added += 1
        if len(self.kept) < self.size:
            self.kept.append((item[0], item[1].copy()))
        elif (place := int(rng.integers(self.added))) < self.size:
            self.kept[place] = (item[0], item[1].copy())


def _sample_per_class(source: Iterable[Labelled], *, classes: int, count: int) -> list[Labelled]:
    """Sample up to `count` windows, the same number of each class; a class with too few windows gives all it has.

    A window with several labels counts for the one that was rarest so far. One without a label is of the last class.
    """
    share, more = divmod(count, classes)
    reservoirs = [_Reservoir(size=share + (label < more)) for label in range(classes)]
    rng = np.random.default_rng(0)
    for own, window in source:
        chosen = min((reservoirs[label] for label in own), key=lambda each: each.added, default=reservoirs[-1])
        chosen.add((own, window), rng)
    return [item for reservoir in reservoirs for item in reservoir.kept]


def _write(path: Path, windows: U8, labels: npt.NDArray[np.int64]) -> None:
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}-", delete=False) as file:
            temporary = Path(file.name)
            np.savez(file, windows=windows, labels=labels)
        temporary.replace(path)
    except OSError as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        raise RunError(f"{path}: cannot be written ({error.strerror}); choose another --output") from error
