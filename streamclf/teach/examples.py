"""Keep the examples of a taught model: the features of their windows, and a list with the sha256 of each film."""

from __future__ import annotations

import hashlib
import json
import math
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Final, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from engines.archive_arrays import UNREADABLE, read_array
from engines.arrays import F32, I32, U8
from engines.bundle import Label, ModelSpec, Sha256
from engines.printable import printable
from engines.regular_file import NotRegularFileError, open_regular
from streamclf.config.picture_area import WHOLE, PictureArea
from streamclf.errors import UsageError
from streamclf.teach.clip_features import THUMB_SIDE, ClipFeatures
from streamclf.teach.limits import MAX_CLIPS, MAX_FEATURE_BYTES

ARRAYS_FILE: Final = "examples.npz"
LIST_FILE: Final = "examples.json"
MAX_LIST_BYTES: Final = 64 << 20
MAX_STILLS_BYTES: Final = 512 << 20
"""Bytes of all stills: each is a JPEG of some kilobytes."""


class ExampleRow(BaseModel):
    """One clip in the list: its name for messages, label, group, film, and the number of its windows and chunks."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(max_length=4096)
    label: Label
    group: str = Field(max_length=4096)
    sha256: Sha256
    stretch: tuple[float, float] | None = None
    began: float | None = None
    windows: Annotated[int, Field(ge=1, le=1_000)]
    chunks: Annotated[int, Field(ge=1, le=1_000_000)]


class ExampleList(BaseModel):
    """The file `examples.json`. `encoder`: sha256 of the encoder that made the features. `arrays`: of the .npz.

    `area`: the part of each picture that was read last.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1] = 1
    base: str
    encoder: Sha256
    geometry: dict[str, float | int | str | list[int]]
    arrays: Sha256
    area: PictureArea = WHOLE
    clips: list[ExampleRow] = Field(max_length=MAX_CLIPS)


@dataclass(slots=True, kw_only=True)
class Example:
    """One clip with its features."""

    row: ExampleRow
    content: ClipFeatures


@dataclass(slots=True)
class Examples:
    """All examples of a model, in order.

    `base`: the id of the model whose encoder made their features. `area`: the part of each picture that was read last.
    """

    base: str
    items: list[Example] = field(default_factory=list)
    area: PictureArea = WHOLE

    def labels(self) -> list[str]:
        """Return the labels in the order of their first example."""
        return list(dict.fromkeys(item.row.label for item in self.items))

    def windows(self) -> F32:
        """Return the features of all windows, (N, T, *F) float32."""
        return np.concatenate([item.content.features[item.content.windows] for item in self.items])

    def clip_of_windows(self) -> I32:
        """Return the number of the clip of each window, (N,)."""
        return np.repeat(np.arange(len(self.items)), [len(item.content.windows) for item in self.items]).astype(
            np.int32
        )


def geometry_of(spec: ModelSpec) -> dict[str, float | int | str | list[int]]:
    """Return the keys of a spec by which two models can share features."""
    return {
        "fps": spec.fps,
        "frames_per_chunk": spec.frames_per_chunk,
        "chunks": spec.chunks,
        "height": spec.height,
        "width": spec.width,
        "resize": spec.resize,
        "feature_shape": list(spec.feature_shape),
    }


def hash_file(path: Path) -> str:
    """Return the sha256 of a film, or of the names and contents of a folder of images. Raises `OSError`."""
    digest = hashlib.sha256()
    files = sorted(item for item in path.iterdir() if item.is_file()) if path.is_dir() else [path]
    for file_path in files:
        if len(files) > 1:
            digest.update(file_path.name.encode("utf-8", "surrogateescape") + b"\0")
        with open_regular(file_path) as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def save_examples(folder: Path, examples: Examples, *, spec: ModelSpec) -> None:
    """Write the examples into `folder`. Raises `OSError`."""
    items, contents = examples.items, [item.content for item in examples.items]
    stills = [still for content in contents for still in content.stills]
    path = folder / ARRAYS_FILE
    np.savez_compressed(
        path,
        features=np.concatenate([content.features for content in contents]),
        windows=np.concatenate([content.windows for content in contents]),
        times=np.concatenate([content.times for content in contents]),
        thumbs=np.concatenate([content.thumbs for content in contents]),
        stills=np.frombuffer(b"".join(stills), np.uint8),
        still_sizes=np.array([len(still) for still in stills], np.int32),
    )
    text = ExampleList(
        base=examples.base,
        encoder=spec.files["encoder.onnx"],
        geometry=geometry_of(spec),
        arrays=hash_file(path),
        area=examples.area,
        clips=[item.row for item in items],
    ).model_dump_json(indent=1)
    (folder / LIST_FILE).write_text(text + "\n", encoding="utf-8")


def load_examples(bundle: Path, spec: ModelSpec) -> Examples:
    """Read the examples of a taught bundle. Raises `UsageError` if it has none, or others than its spec says."""
    try:
        with open_regular(bundle / LIST_FILE) as file:
            text = file.read(MAX_LIST_BYTES + 1)
        listed = ExampleList.model_validate_json(text)
        if hash_file(bundle / ARRAYS_FILE) != listed.arrays:
            raise UsageError(f"{bundle / ARRAYS_FILE}: altered or damaged; teach again from the films without --add")
    except FileNotFoundError:
        raise UsageError(
            f"{bundle}: holds no examples ({LIST_FILE}, {ARRAYS_FILE}); teach it from all of its films, without --add"
        ) from None
    except (OSError, NotRegularFileError, ValidationError, json.JSONDecodeError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"{bundle / LIST_FILE}: cannot be used ({reason}); teach again without --add") from None
    if listed.encoder != spec.files["encoder.onnx"] or listed.geometry != geometry_of(spec):
        raise UsageError(
            f"{bundle}: its examples are features of another encoder ({printable(listed.base)}); the base has changed "
            "since: teach again from the films without --add"
        )
    try:
        return Examples(listed.base, _read_items(bundle / ARRAYS_FILE, listed, spec), listed.area)
    except (*UNREADABLE, NotRegularFileError) as error:
        raise UsageError(f"{bundle / ARRAYS_FILE}: cannot be used ({error}); teach again without --add") from None


def _read_items(path: Path, listed: ExampleList, spec: ModelSpec) -> list[Example]:
    chunks, windows = sum(row.chunks for row in listed.clips), sum(row.windows for row in listed.clips)
    if max(chunks * math.prod(spec.feature_shape), windows * spec.chunks) * 4 > 2 * MAX_FEATURE_BYTES:
        raise ValueError(f"{chunks} chunks and {windows} windows are too many")
    shapes: dict[str, tuple[tuple[int, ...], type]] = {
        "features": ((chunks, *spec.feature_shape), np.float32),
        "windows": ((windows, spec.chunks), np.int32),
        "times": ((windows, 2), np.float64),
        "thumbs": ((chunks, THUMB_SIDE, THUMB_SIDE), np.uint8),
        "still_sizes": ((windows,), np.int32),
    }
    with open_regular(path) as file, zipfile.ZipFile(file) as archive:
        found = {name: read_array(archive, name, np.dtype(dtype), shape) for name, (shape, dtype) in shapes.items()}
        sizes = found["still_sizes"]
        if windows and (sizes.min() < 0 or sizes.sum(dtype=np.int64) > MAX_STILLS_BYTES):
            raise ValueError(f"still_sizes: over {MAX_STILLS_BYTES >> 20} MiB, or less than nothing")
        data = read_array(archive, "stills", np.dtype(np.uint8), (int(sizes.sum(dtype=np.int64)),)).tobytes()
    for name in ("features", "times"):
        if not np.isfinite(found[name]).all():
            raise ValueError(f"{name}: infinite numbers")
    ends = np.cumsum(sizes, dtype=np.int64)
    stills = [data[end - size : end] for end, size in zip(ends, sizes, strict=True)]
    items, chunk, window = list[Example](), 0, 0
    for row in listed.clips:
        numbers = found["windows"][window : window + row.windows]
        if numbers.min() < 0 or numbers.max() >= row.chunks:
            raise ValueError("windows: a chunk that does not exist")
        content = ClipFeatures(
            features=found["features"][chunk : chunk + row.chunks],
            windows=numbers,
            times=found["times"][window : window + row.windows],
            thumbs=found["thumbs"][chunk : chunk + row.chunks],
            stills=stills[window : window + row.windows],
        )
        items.append(Example(row=row, content=content))
        chunk, window = chunk + row.chunks, window + row.windows
    return items


def thin_out(examples: Examples, limit: int) -> None:
    """Keep at most `limit` windows of each clip, spread evenly, with the chunks that these need."""
    for item in examples.items:
        content = item.content
        if len(content.windows) <= limit:
            continue
        chosen = np.linspace(0, len(content.windows) - 1, limit).round().astype(int)
        used, windows = np.unique(content.windows[chosen], return_inverse=True)
        item.content = ClipFeatures(
            features=content.features[used],
            windows=windows.reshape(-1, content.windows.shape[1]).astype(np.int32),
            times=content.times[chosen],
            thumbs=content.thumbs[used],
            stills=[content.stills[number] for number in chosen],
        )
        item.row = item.row.model_copy(update={"windows": len(chosen), "chunks": len(used)})


def stack_thumbs(items: Sequence[Example]) -> list[U8]:
    """Return the grey pictures of each clip, (C, 8, 8) uint8."""
    return [item.content.thumbs for item in items]
