"""Load and verify a bundle, the directory that training hands to serving: each file is checked before it is used."""

from __future__ import annotations

import hashlib
import json
import math
import unicodedata
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Annotated, Any, Final, Literal, TypeAlias

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from engines.archive_arrays import UNREADABLE, ArrayMismatchError, read_array
from engines.arrays import F32, U8
from engines.errors import BundleError
from engines.regular_file import NotRegularFileError, open_regular

SPEC_FILE = "spec.json"
ENCODER_FILE = "encoder.onnx"
HEAD_FILE = "head.onnx"
GOLDEN_FILE = "golden.npz"
CARD_FILE = "README.md"
INT8_ENCODER_FILE = "encoder.int8.onnx"
INT8_HEAD_FILE = "head.int8.onnx"
"""Optional files: the same graphs with quantised weights and activations (QDQ), from `engines.graphs.quantise`."""
GRAPH_NAMES: Final = ("encoder", "head")
REQUIRED_FILES = (ENCODER_FILE, HEAD_FILE, GOLDEN_FILE, CARD_FILE)

FORMAT: Final = 2
"""Format 1 had other names for `frames_per_chunk` and `chunks`."""
MAX_SPEC_BYTES = 1 << 20
MAX_WINDOW_BYTES = 1 << 30
"""Limit for the frames of one window, and for its features. The largest published models need 10 MB of frames."""
MAX_LABEL_CHARS: Final = 256
"""Public data sets describe actions in sentences: those of Something-Something have up to 98 characters."""

Label = Annotated[str, Field(min_length=1, max_length=MAX_LABEL_CHARS)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Activation: TypeAlias = Literal["softmax", "sigmoid"]
Threshold = Annotated[float, Field(gt=0, le=1)]
PartName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]
DEFAULT_THRESHOLD: Final = 0.5
"""Probability from which an independent label counts as present where the spec gives no threshold for it."""
NEW_KEYS: Final = ("short_clips", "activation", "thresholds", "feature_parts", "decode", "hides_scene")
"""Keys that format 2 did not have at first. A spec leaves out their defaults, so that an older version reads it."""


class ModelSpec(BaseModel):
    """Everything that serving must know about a model besides its weights.

    `encoder.onnx` maps `frames`, uint8 (N, frames_per_chunk, height, width, 3) RGB, to `features`, float32
    (N, *feature_shape). `head.onnx` maps `features`, float32 (N, chunks, *feature_shape), oldest first, to `logits`,
    float32 (N, len(labels)). `activation` turns logits into probabilities: with `softmax` the labels exclude each
    other, with `sigmoid` they are independent. N is the only dynamic axis.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[2] = FORMAT
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")
    version: str = Field(pattern=r"^[0-9A-Za-z][0-9A-Za-z.+-]{0,31}$")
    labels: tuple[Label, ...] = Field(min_length=1, max_length=10_000)
    height: int = Field(ge=8, le=4096, description="pixels")
    width: int = Field(ge=8, le=4096, description="pixels")
    resize: Literal["stretch", "crop", "letterbox"] = Field(
        "stretch", description="how to turn a frame of another shape into height x width"
    )
    fps: float = Field(gt=0, le=240, description="sampled frames per second of media time")
    frames_per_chunk: int = Field(ge=1, le=64, description="t: sampled frames in one encode")
    chunks: int = Field(ge=1, le=1024, description="T: chunks in one window")
    whole_clips: Literal["windows", "stretch"] = Field(
        "windows",
        description="how to classify a whole clip: in windows at `fps`, or stretched to one window (a live stream "
        "always comes in windows)",
    )
    short_clips: Literal["hold", "loop"] = Field(
        "hold", description="how to fill a window that is longer than its clip: hold the last frame, or loop the clip"
    )
    feature_shape: tuple[Annotated[int, Field(ge=1)], ...] = Field(min_length=1, max_length=3)
    feature_parts: dict[PartName, Annotated[int, Field(ge=1)]] = Field(
        default_factory=dict, max_length=64, description="lengths of the named, consecutive parts of the feature"
    )
    activation: Activation = Field(
        "softmax", description="whether one label holds at a time (softmax), or each by itself (sigmoid)"
    )
    thresholds: dict[str, Threshold] = Field(
        default_factory=dict, description="probability from which a label counts as present, above 0, at most 1"
    )
    decode: Literal["auto", "exact"] = Field(
        "auto",
        description="`exact`: a stream's `decode: auto` decodes its video exactly for this model, never fast",
    )
    hides_scene: tuple[Label, ...] = Field(
        (), max_length=64, description="labels of what hides the scene: their actions go on until the scene is back"
    )
    metrics: dict[str, float] = Field(default_factory=dict, description="on the model's own test split")
    files: dict[str, Sha256] = Field(description="sha256 of every other file of the bundle")

    @model_validator(mode="after")
    def _consistent(self) -> ModelSpec:
        if len(set(self.labels)) != len(self.labels):
            raise ValueError("labels: each label may occur only once")
        if len(self.labels) == 1 and self.activation == "softmax":
            raise ValueError("labels: with activation softmax give at least two; one label needs activation sigmoid")
        if unknown := [name for name in self.thresholds if name not in self.labels]:
            raise ValueError(f"thresholds: {unknown[0]!r} is not a label of this model")
        if unknown := [name for name in self.hides_scene if name not in self.labels]:
            raise ValueError(f"hides_scene: {unknown[0]!r} is not a label of this model")
        if self.hides_scene and self.chunks < 2:
            raise ValueError("hides_scene: a window of one chunk cannot show that the scene was lost; leave it out")
        self._check_parts()
        missing = [name for name in REQUIRED_FILES if name not in self.files]
        if missing:
            raise ValueError(f"files: no entry for {', '.join(missing)}")
        bad = [name for name in self.files if "/" in name or "\\" in name or name.startswith(".")]
        if bad:
            raise ValueError(f"files: {bad[0]!r} is not a plain file name")
        for kind, size in (
            ("frames", self.chunks * math.prod(self.chunk_shape)),
            ("features", self.chunks * math.prod(self.feature_shape) * np.dtype(np.float32).itemsize),
        ):
            if size > MAX_WINDOW_BYTES:
                raise ValueError(f"the {kind} of one window take {size} bytes, at most {MAX_WINDOW_BYTES}")
        return self

    def _check_parts(self) -> None:
        if not self.feature_parts:
            return
        if len(self.feature_shape) > 1:
            raise ValueError(
                f"feature_parts: the feature has {len(self.feature_shape)} axes, feature_shape={self.feature_shape}; "
                "only a feature with one axis has parts"
            )
        if (total := sum(self.feature_parts.values())) != self.feature_shape[0]:
            raise ValueError(
                f"feature_parts: the sizes sum to {total}, the feature has {self.feature_shape[0]} numbers"
            )

    @property
    def id(self) -> str:
        """Return `name@version`, as in predictions."""
        return f"{self.name}@{self.version}"

    @cached_property
    def label_thresholds(self) -> F32:
        """Return the probability (K,) from which each label counts as present, in the order of the labels."""
        limits = np.array([self.thresholds.get(label, DEFAULT_THRESHOLD) for label in self.labels], np.float32)
        limits.flags.writeable = False
        return limits

    def find_label(self, name: str) -> str | None:
        """Return the label `name`. An accent may be composed in one and decomposed in the other (NFC, NFD)."""
        if name in self.labels:
            return name
        composed = unicodedata.normalize("NFC", name)
        return next((label for label in self.labels if unicodedata.normalize("NFC", label) == composed), None)

    @property
    def chunk_s(self) -> float:
        """Return the media time of one chunk in seconds."""
        return self.frames_per_chunk / self.fps

    @property
    def window_s(self) -> float:
        """Return the media time of one window in seconds."""
        return self.chunks * self.chunk_s

    @property
    def chunk_shape(self) -> tuple[int, int, int, int]:
        """Return (frames_per_chunk, height, width, 3)."""
        return (self.frames_per_chunk, self.height, self.width, 3)


@dataclass(frozen=True, slots=True, kw_only=True)
class Golden:
    """One real window and PyTorch's fp32 logits for it.

    `frames`: (chunks, frames_per_chunk, height, width, 3) uint8 RGB; `logits`: (K,) float32.
    """

    frames: U8
    logits: F32


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """A verified bundle on disk: each of its files matches the sha256 in its spec."""

    path: Path
    spec: ModelSpec

    @property
    def encoder_path(self) -> Path:
        """Return the path of the encoder's ONNX file."""
        return self.path / ENCODER_FILE

    @property
    def head_path(self) -> Path:
        """Return the path of the head's ONNX file."""
        return self.path / HEAD_FILE

    def graphs(self, precision: str) -> tuple[Path, Path]:
        """Return the ONNX files of encoder and head for `precision`. Raises `BundleError` if int8 files are missing."""
        if precision != "int8":
            return self.encoder_path, self.head_path
        for name in (INT8_ENCODER_FILE, INT8_HEAD_FILE):
            if name not in self.spec.files:
                raise BundleError(
                    f"precision=int8: {self.path} has no {name}; make one: "
                    f"streamclf compile {self.path} --precision int8 --calibration WINDOWS.npz -o NEW "
                    "(WINDOWS.npz: python -m training windows)"
                )
        return self.path / INT8_ENCODER_FILE, self.path / INT8_HEAD_FILE

    def golden(self) -> Golden:
        """Load the golden clip. Raises `BundleError` if its shapes differ from the spec.

        Shapes are checked before any data is read: a small archive can expand to gigabytes.
        """
        spec, path = self.spec, self.path / GOLDEN_FILE
        try:
            with _open(path) as file, zipfile.ZipFile(file) as archive:
                frames = read_array(archive, "frames", np.dtype(np.uint8), (spec.chunks, *spec.chunk_shape))
                logits = read_array(archive, "logits", np.dtype(np.float32), (len(spec.labels),))
        except ArrayMismatchError as error:
            raise BundleError(f"{path}: {error}; export the bundle again") from error
        except UNREADABLE as error:
            raise BundleError(f"{path}: not a golden clip ({error}); export the bundle again") from error
        return Golden(frames=frames, logits=logits)


def load_bundle(path: Path) -> Bundle:
    """Read and verify the bundle in directory `path`: its spec, and the presence and sha256 of every file.

    Raises `BundleError`, which names the file, the defect and the remedy.
    """
    if not path.is_dir():
        raise BundleError(f"{path}: no such bundle; a bundle is a directory with {SPEC_FILE} in it")
    spec_path = path / SPEC_FILE
    try:
        with _open(spec_path) as file:
            text = file.read(MAX_SPEC_BYTES + 1)
        if len(text) > MAX_SPEC_BYTES:
            raise BundleError(f"{spec_path}: longer than {MAX_SPEC_BYTES} bytes; export the bundle again")
        spec = ModelSpec.model_validate_json(text)
    except OSError as error:
        raise BundleError(f"{spec_path}: cannot be read ({error.strerror}); is {path} a bundle?") from error
    except ValidationError as error:
        first = error.errors()[0]
        if first["loc"] == ("format",):
            raise BundleError(
                f"{spec_path}: format={first['input']!r:.20}: this version reads format {FORMAT}; "
                "export the bundle again with this version"
            ) from error
        where = "".join(f"{part}." for part in first["loc"])[:-1]
        reason = str(first["msg"]).removeprefix("Value error, ")
        raise BundleError(f"{spec_path}: {where and f'{where}: '}{reason}; export the bundle again") from error
    for name, expected in spec.files.items():
        actual = _sha256(path / name)
        if actual != expected:
            raise BundleError(
                f"{path / name}: sha256 is {actual[:12]}…, {SPEC_FILE} says {expected[:12]}…; "
                "the file was altered or damaged: copy or export the bundle again"
            )
    return Bundle(path=path, spec=spec)


def write_spec(path: Path, fields: Mapping[str, Any]) -> Bundle:
    """Hash the files in directory `path`, then write `spec.json`, and return the verified bundle.

    `fields` are the fields of `ModelSpec` without `files`.
    """
    names = sorted(item.name for item in path.iterdir() if item.is_file() and item.name != SPEC_FILE)
    spec = ModelSpec.model_validate({**fields, "files": {name: _sha256(path / name) for name in names}})
    values = spec.model_dump(mode="json")
    for key in NEW_KEYS:
        if getattr(spec, key) == ModelSpec.model_fields[key].get_default(call_default_factory=True):
            del values[key]
    text = json.dumps(values, indent=2, ensure_ascii=False)
    (path / SPEC_FILE).write_text(text + "\n", encoding="utf-8")
    return load_bundle(path)


def _open(path: Path) -> IO[bytes]:
    try:
        return open_regular(path)
    except NotRegularFileError as error:
        raise BundleError(f"{error}; copy or export the bundle again") from error


def _sha256(path: Path) -> str:
    try:
        with _open(path) as file:
            digest = hashlib.sha256()
            while block := file.read(1 << 20):
                digest.update(block)
            return digest.hexdigest()
    except OSError as error:
        raise BundleError(f"{path}: cannot be read ({error.strerror}); the bundle is incomplete") from error
