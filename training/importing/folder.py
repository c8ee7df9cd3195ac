"""Read and check a Hugging Face model folder: config.json, preprocessor_config.json, model.safetensors."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from training.errors import FolderError, RunError
from training.models.layers import Gelu
from training.weights import WEIGHTS_FILE, State, read_weights

Pair = tuple[int, int]

CONFIG_FILE, PROCESSOR_FILE = "config.json", "preprocessor_config.json"
MAX_JSON_BYTES = 1 << 20

ACTIVATIONS: dict[str, Gelu] = {
    "gelu": "none",
    "gelu_python": "none",
    "gelu_fast": "tanh",
    "gelu_new": "tanh",
    "gelu_pytorch_tanh": "tanh",
}


def _pair(given: Any) -> Any:
    """Expand one number to (height, width)."""
    return (given, given) if isinstance(given, int) else given


Side = Annotated[int, Field(ge=8, le=4096)]
Patch = Annotated[int, Field(ge=1, le=4096)]


class FolderConfig(BaseModel):
    """The keys of config.json that define the network; the defaults are the same as in transformers."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    model_type: Literal["vivit", "videomae", "timesformer"]
    architectures: tuple[str, ...] = ()
    image_size: tuple[Side, Side] = (224, 224)
    patch_size: tuple[Patch, Patch] = (16, 16)
    tubelet_size: int | tuple[int, int, int] = 2
    num_frames: int = Field(ge=1, le=4096)
    num_channels: Literal[3] = 3
    hidden_size: int = Field(768, ge=8, le=1 << 16)
    num_hidden_layers: int = Field(12, ge=1, le=512)
    num_attention_heads: int = Field(12, ge=1, le=1024)
    intermediate_size: int = Field(3072, ge=1, le=1 << 18)
    hidden_act: str = "gelu"
    layer_norm_eps: float = Field(1e-6, gt=0, lt=1)
    id2label: dict[int, str] = Field({0: "LABEL_0", 1: "LABEL_1"}, min_length=2)
    use_mean_pooling: bool = True
    attention_type: Literal["divided_space_time", "joint_space_time", "space_only"] = "divided_space_time"

    _both = field_validator("image_size", "patch_size", mode="before")(_pair)

    @model_validator(mode="before")
    @classmethod
    def _add_defaults(cls, given: Any) -> Any:
        """Add the defaults of the model type, where they differ from the fields' defaults."""
        own: dict[str, dict[str, Any]] = {
            "vivit": {"num_frames": 32, "tubelet_size": (2, 16, 16), "hidden_act": "gelu_fast"},
            "videomae": {"num_frames": 16, "layer_norm_eps": 1e-12},
            "timesformer": {"num_frames": 8},
        }
        return {**own.get(str(given.get("model_type")), {}), **given} if isinstance(given, dict) else given

    @model_validator(mode="after")
    def _fits(self) -> FolderConfig:
        if self.hidden_act not in ACTIVATIONS:
            raise ValueError(f"hidden_act={self.hidden_act}: must be one of {', '.join(ACTIVATIONS)}")
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(f"hidden_size={self.hidden_size}: not a multiple of {self.num_attention_heads} heads")
        if sorted(self.id2label) != list(range(len(self.id2label))):
            raise ValueError("id2label: its numbers must count from 0 without a gap")
        frames, *patch = self.tubelet
        if self.num_frames % frames:
            raise ValueError(f"num_frames={self.num_frames}: not a multiple of the tubelet's {frames} frames")
        if any(size % part for size, part in zip(self.image_size, patch, strict=True)):
            raise ValueError(f"image_size={self.image_size}: not a multiple of patches of {tuple(patch)} pixels")
        if self.attention_type == "space_only":
            raise ValueError("attention_type=space_only: it classifies frames, not clips; a bundle needs another type")
        return self

    @property
    def tubelet(self) -> tuple[int, int, int]:
        """Return frames, height and width of one tubelet."""
        if self.model_type == "timesformer":
            return (1, *self.patch_size)
        return self.tubelet_size if isinstance(self.tubelet_size, tuple) else (self.tubelet_size, *self.patch_size)

    @property
    def chunks(self) -> int:
        """Return the number of chunks in one window."""
        return self.num_frames // self.tubelet[0]

    @property
    def patches(self) -> int:
        """Return the number of patches in one chunk."""
        _, height, width = self.tubelet
        return math.prod(self.image_size) // (height * width)


def read_config(folder: Path) -> FolderConfig:
    """Read and check config.json. Raises `FolderError` with the key, the value and the reason."""
    tree = read_json(folder / CONFIG_FILE)
    kind = tree.get("model_type")
    if kind not in ("vivit", "videomae", "timesformer"):
        raise FolderError(
            f"{folder / CONFIG_FILE}: model_type={kind!r}: only vivit, videomae and timesformer can be imported"
        )
    try:
        config = FolderConfig.model_validate(tree)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise FolderError(f"{folder / CONFIG_FILE}: {where + ': ' if where else ''}{first['msg']}") from error
    if config.architectures and not any(name.endswith("ForVideoClassification") for name in config.architectures):
        raise FolderError(
            f"{folder / CONFIG_FILE}: architectures={list(config.architectures)}: has no classifier; "
            "give the folder of a model fine-tuned for video classification"
        )
    return config


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object of at most `MAX_JSON_BYTES`. Raises `FolderError`."""
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise FolderError(f"{path}: {path.stat().st_size} bytes, at most {MAX_JSON_BYTES}")
        tree = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise FolderError(
            f"{path}: cannot be read ({error.strerror}); a folder needs {CONFIG_FILE}, {PROCESSOR_FILE}, {WEIGHTS_FILE}"
        ) from error
    except (ValueError, RecursionError) as error:
        raise FolderError(f"{path}: not JSON ({str(error).splitlines()[0]}); download it again") from error
    if not isinstance(tree, dict):
        raise FolderError(f"{path}: must be a JSON object, this is {type(tree).__name__}")
    return tree


def read_state(folder: Path) -> State:
    """Read the folder's tensors as float32; never unpickles. Raises `FolderError`."""
    path = folder / WEIGHTS_FILE
    if not path.is_file():
        pickles = sorted(item.name for item in folder.glob("*.bin"))
        if pickles:
            raise FolderError(
                f"{folder}: has {pickles[0]}, a pickle, which can run any code and is never read; if you trust it, "
                f"convert it to {WEIGHTS_FILE} with transformers' save_pretrained"
            )
        raise FolderError(f"{path}: missing (one whole file is needed, not shards); download the folder again")
    try:
        state = read_weights(path)
    except RunError as error:
        raise FolderError(str(error)) from error
    for name, tensor in state.items():
        if not tensor.is_floating_point() or not torch.isfinite(tensor).all():
            raise FolderError(f"{path}: {name} has values that are not finite numbers; download it again")
    return {name: tensor.to(torch.float32) for name, tensor in state.items()}
