"""Define the keys of config.json that describe a text tower and an image tower, with the defaults of transformers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from training.errors import FolderError
from training.importing.config import Patch, Side, VideoPrismConfig
from training.importing.folder import CONFIG_FILE, CONFIGS, WORDS_KINDS, read_json, validate_config
from training.importing.words.layers import ACTIVATIONS

_TEXT_DEFAULTS: Final[dict[str, dict[str, Any]]] = {
    "clip": {
        "hidden_size": 512, "intermediate_size": 2048, "num_attention_heads": 8, "vocab_size": 49408,
        "max_position_embeddings": 77, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5, "eos_token_id": 49407,
    },
    "siglip": {"hidden_act": "gelu_pytorch_tanh", "pad_token_id": 1},
    "siglip2": {"hidden_act": "gelu_pytorch_tanh", "pad_token_id": 1},
    "videoprism": {"hidden_act": "relu", "pad_token_id": 0},
}  # fmt: skip
_IMAGE_DEFAULTS: Final[dict[str, dict[str, Any]]] = {
    "clip": {"patch_size": 32, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5},
    "siglip": {"hidden_act": "gelu_pytorch_tanh"},
    "siglip2": {"hidden_act": "gelu_pytorch_tanh", "num_patches": 256},
    "videoprism": {"model_type": "videoprism_vision_model"},
}
_CLASSES: Final = ("CLIPModel", "SiglipModel", "Siglip2Model", "VideoPrismClipModel")
"""The classes of transformers with both towers."""


class TowerConfig(BaseModel):
    """The keys of one transformer."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    hidden_size: int = Field(768, ge=8, le=1 << 14)
    intermediate_size: int = Field(3072, ge=1, le=1 << 16)
    num_hidden_layers: int = Field(12, ge=1, le=128)
    num_attention_heads: int = Field(12, ge=1, le=1024)
    hidden_act: str
    layer_norm_eps: float = Field(1e-6, gt=0, lt=1)

    @model_validator(mode="after")
    def _fits(self) -> TowerConfig:
        if self.hidden_act not in ACTIVATIONS:
            raise ValueError(f"hidden_act={self.hidden_act!r:.80}: must be one of {', '.join(ACTIVATIONS)}")
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(f"hidden_size={self.hidden_size}: not a multiple of {self.num_attention_heads} heads")
        return self


class TextConfig(TowerConfig):
    """The keys of a text tower."""

    vocab_size: int = Field(32000, ge=1, le=1 << 21)
    max_position_embeddings: int = Field(64, ge=2, le=4096)
    pad_token_id: int | None = Field(None, ge=0)
    eos_token_id: int | None = Field(None, ge=0)
    projection_size: int | None = Field(None, ge=1, le=1 << 14)
    qkv_bias: bool = True
    attn_logit_softcapping: float = Field(50.0, gt=0, le=1e6)
    apply_l2norm: Literal[True] = True

    @field_validator("eos_token_id", mode="before")
    @classmethod
    def _first(cls, given: Any) -> Any:
        """Accept a list with one number."""
        return given[0] if isinstance(given, list) and len(given) == 1 else given


class ImageConfig(TowerConfig):
    """The keys of an image tower. `num_patches` replaces `image_size` in SigLIP 2's NaFlex models."""

    image_size: Side = 224
    patch_size: Patch = 16
    num_channels: Literal[3] = 3
    vision_use_head: Literal[True] = True
    num_patches: int | None = Field(None, ge=1, le=1 << 14)

    @model_validator(mode="after")
    def _fits_the_patches(self) -> ImageConfig:
        if self.num_patches is not None and self.side**2 != self.num_patches:
            raise ValueError(f"num_patches={self.num_patches}: must be a square number, such as 256")
        if self.size < max(self.patch_size, 8) or self.size > 4096:
            raise ValueError(f"images of {self.size} x {self.size} pixels: must be 8 to 4096, and one patch or more")
        return self

    @property
    def side(self) -> int:
        """Return the number of patches along one side."""
        return self.image_size // self.patch_size if self.num_patches is None else round(self.num_patches**0.5)

    @property
    def size(self) -> int:
        """Return height and width of the images in pixels."""
        return self.image_size if self.num_patches is None else self.side * self.patch_size


class LvtConfig(VideoPrismConfig):
    """The keys of VideoPrism's video tower in a model with a text tower."""

    num_auxiliary_layers: int = Field(2, ge=0, le=128)
    apply_l2norm: Literal[True] = True


class _Projection(BaseModel):
    projection_dim: int = Field(512, ge=1, le=1 << 14)


@dataclass(frozen=True, slots=True, kw_only=True)
class WordsConfig:
    """The keys of a model with a text tower. `vision` is an `LvtConfig` for VideoPrism alone.

    `projection_dim`: CLIP's width of the embeddings of both towers.
    """

    model_type: str
    text: TextConfig
    vision: ImageConfig | LvtConfig
    projection_dim: int


def read_words_config(folder: Path) -> WordsConfig:
    """Read and check config.json. Raises `FolderError` for a model without a text tower, and for a wrong key."""
    path = folder / CONFIG_FILE
    tree = read_json(path)
    kind = tree.get("model_type")
    if kind not in WORDS_KINDS:
        known = isinstance(kind, str) and (kind in CONFIGS or "vision" in kind)
        reason = "has no text tower" if known else "is not known"
        raise FolderError(
            f"{path}: model_type={kind!r:.80} {reason}; labels in words need a model with a text tower: "
            f"{', '.join(WORDS_KINDS)}"
        )
    architectures = tree.get("architectures") or []
    if not isinstance(architectures, list) or (architectures and not set(map(str, architectures)) & set(_CLASSES)):
        raise FolderError(
            f"{path}: architectures={architectures!r:.200}: has no text tower or another head; "
            f"labels in words need one of {', '.join(_CLASSES)}"
        )
    text = {**_TEXT_DEFAULTS[kind], **_part(path, tree, "text_config")}
    vision = {**_IMAGE_DEFAULTS[kind], **_part(path, tree, "vision_config")}
    shared = {name: value for name, value in tree.items() if name == "projection_dim" and value is not None}
    return WordsConfig(
        model_type=kind,
        text=validate_config(TextConfig, text, folder),
        vision=validate_config(LvtConfig, vision, folder)
        if kind == "videoprism"
        else validate_config(ImageConfig, vision, folder),
        projection_dim=validate_config(_Projection, shared, folder).projection_dim,
    )


def _part(path: Path, tree: dict[str, Any], key: str) -> dict[str, Any]:
    """Return the keys of one tower; transformers leaves out a tower whose keys all have their defaults."""
    given = tree.get(key)
    if given is not None and not isinstance(given, dict):
        raise FolderError(f"{path}: {key} must be a JSON object, this is {type(given).__name__}")
    return {name: value for name, value in (given or {}).items() if value is not None or name.endswith("token_id")}
