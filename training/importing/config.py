"""Define the keys of config.json that describe each network, with the defaults of transformers."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from engines.bundle import Activation
from training.models.layers import Gelu

Pair = tuple[int, int]

MULTI_LABEL: Final = "multi_label_classification"
"""The `problem_type` of a model whose labels are independent."""
MAX_LABELS: Final = 10_000
"""The largest number of classes of a bundle."""
MAX_FEATURE_BYTES: Final = 1 << 30
"""A bound on the memory that a folder's numbers can ask for; ViViT-B/16x2 has 9.6 MB of features in one window."""

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
    """The keys that all networks share, and the layout of their windows."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    model_type: str
    architectures: tuple[str, ...] = ()
    hidden_size: int = Field(768, ge=8, le=1 << 16)
    num_attention_heads: int = Field(12, ge=1, le=1024)
    hidden_act: str = "gelu"
    layer_norm_eps: float = Field(1e-6, gt=0, lt=1)
    problem_type: str | None = None
    id2label: dict[int, str] = Field({}, description="empty where config.json does not name the classes")
    label2id: dict[str, int] = {}
    num_labels: int | None = Field(None, ge=0, le=MAX_LABELS)

    @field_validator("id2label", mode="before")
    @classmethod
    def _names(cls, given: Any) -> Any:
        """Accept a list of names, and names that are numbers."""
        items = dict(enumerate(given)) if isinstance(given, list) else given or {}
        if not isinstance(items, dict):
            return items
        return {key: str(name) if isinstance(name, int | float) else name for key, name in items.items()}

    @field_validator("label2id", mode="before")
    @classmethod
    def _optional(cls, given: Any) -> Any:
        return given or {}

    @model_validator(mode="after")
    def _fits(self) -> FolderConfig:
        if self.problem_type not in (None, "single_label_classification", MULTI_LABEL):
            raise ValueError(
                f"problem_type={self.problem_type!r:.80}: the engine computes probabilities of classes, so it cannot "
                f"run a model with a number as output (regression); fine-tune the model with {MULTI_LABEL} or "
                "single_label_classification"
            )
        if self.hidden_act not in ACTIVATIONS:
            raise ValueError(f"hidden_act={self.hidden_act!r:.80}: must be one of {', '.join(ACTIVATIONS)}")
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(f"hidden_size={self.hidden_size}: not a multiple of {self.num_attention_heads} heads")
        if sorted(self.id2label) != list(range(len(self.id2label))):
            raise ValueError(
                f"id2label: {len(self.id2label)} classes with the numbers {min(self.id2label)} to "
                f"{max(self.id2label)}; they must count from 0 without a gap"
            )
        if not self.patches:
            raise ValueError(f"images of {self.crop[0]} x {self.crop[1]} pixels are smaller than one patch")
        if (size := 4 * self.chunks * self.patches * self.hidden_size) > MAX_FEATURE_BYTES:
            raise ValueError(
                f"{self.chunks} chunks of {self.patches} patches: {size / 1e9:.1f} GB of features in one window, at "
                f"most {MAX_FEATURE_BYTES / 1e9:.1f} GB"
            )
        return self

    @property
    def activation(self) -> Activation:
        """Return how the logits become probabilities, as `problem_type` says."""
        return "sigmoid" if self.problem_type == MULTI_LABEL else "softmax"

    @property
    @abstractmethod
    def frames(self) -> int:
        """Return the number of frames in one window."""

    @property
    @abstractmethod
    def crop(self) -> Pair:
        """Return height and width of the images that the network reads."""

    @property
    @abstractmethod
    def tubelet(self) -> tuple[int, int, int]:
        """Return frames, height and width of one tubelet."""

    @property
    @abstractmethod
    def depth(self) -> str:
        """Return the number of layers, for the model card."""

    @property
    @abstractmethod
    def fps(self) -> float:
        """Return the frame rate at which the published models of this kind sampled their clips.

        A checkpoint folder does not contain the rate.
        """

    @property
    def gelu(self) -> Gelu:
        """Return the approximation of the activation."""
        return ACTIVATIONS[self.hidden_act]

    @property
    def chunks(self) -> int:
        """Return the number of chunks in one window; a chunk is one tubelet long."""
        return self.frames // self.tubelet[0]

    @property
    def grid(self) -> Pair:
        """Return rows and columns of the patches of one chunk."""
        _, height, width = self.tubelet
        return self.crop[0] // height, self.crop[1] // width

    @property
    def patches(self) -> int:
        """Return the number of patches in one chunk."""
        return math.prod(self.grid)


class ImageSizeConfig(FolderConfig):
    """The keys of networks that name the size of their images and the length of their window alike."""

    image_size: tuple[Side, Side] = (224, 224)
    num_frames: int = Field(ge=1, le=4096)
    num_channels: Literal[3] = 3
    intermediate_size: int = Field(3072, ge=1, le=1 << 18)

    _image_size = field_validator("image_size", mode="before")(_pair)

    @property
    def frames(self) -> int:
        """See `FolderConfig`."""
        return self.num_frames

    @property
    def crop(self) -> Pair:
        """See `FolderConfig`."""
        return self.image_size


class WindowAttentionConfig(ImageSizeConfig):
    """The keys of ViViT, VideoMAE and TimeSformer, whose attention runs over the whole window."""

    model_type: Literal["vivit", "videomae", "timesformer"]
    patch_size: tuple[Patch, Patch] = (16, 16)
    tubelet_size: Patch | tuple[Patch, Patch, Patch] = 2
    num_hidden_layers: int = Field(12, ge=1, le=512)
    use_mean_pooling: bool = True
    attention_type: Literal["divided_space_time", "joint_space_time", "space_only"] = "divided_space_time"

    _patch_size = field_validator("patch_size", mode="before")(_pair)

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
    def _fits_the_patches(self) -> WindowAttentionConfig:
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
        """See `FolderConfig`."""
        if self.model_type == "timesformer":
            return (1, *self.patch_size)
        return self.tubelet_size if isinstance(self.tubelet_size, tuple) else (self.tubelet_size, *self.patch_size)

    @property
    def depth(self) -> str:
        """See `FolderConfig`."""
        return f"{self.num_hidden_layers} layers"

    @property
    def fps(self) -> float:
        """See `FolderConfig`: every 2nd, 4th and 32nd frame of Kinetics, which has 25 fps."""
        return {"vivit": 12.5, "videomae": 6.25, "timesformer": 0.78125}[self.model_type]


class VideoPrismConfig(ImageSizeConfig):
    """The keys of VideoPrism: spatial layers for each frame, then temporal layers for the window."""

    model_type: Literal["videoprism_vision_model"]
    image_size: tuple[Side, Side] = (288, 288)
    num_frames: int = Field(16, ge=1, le=1024)
    tubelet_size: tuple[Literal[1], Patch, Patch] = (1, 18, 18)
    num_spatial_layers: int = Field(12, ge=1, le=512)
    num_temporal_layers: int = Field(4, ge=1, le=512)
    hidden_act: str = "gelu_python"
    attn_logit_softcapping: float = Field(50.0, gt=0, le=1e6)
    qkv_bias: bool = True

    @property
    def tubelet(self) -> tuple[int, int, int]:
        """See `FolderConfig`."""
        return self.tubelet_size

    @property
    def depth(self) -> str:
        """See `FolderConfig`."""
        return f"{self.num_spatial_layers} spatial and {self.num_temporal_layers} temporal layers"

    @property
    def fps(self) -> float:
        """See `FolderConfig`: all frames are spread over a clip, and clips of Kinetics last 10 s."""
        return self.num_frames / 10


class VJepa2Config(FolderConfig):
    """The keys of V-JEPA 2's encoder and attentive pooler, whose attention runs over the whole window."""

    model_type: Literal["vjepa2"]
    crop_size: Side = 256
    patch_size: Patch = 16
    frames_per_clip: int = Field(64, ge=1, le=4096)
    tubelet_size: int = Field(2, ge=1, le=64)
    in_chans: Literal[3] = 3
    hidden_size: int = Field(1024, ge=8, le=1 << 16)
    num_attention_heads: int = Field(16, ge=1, le=1024)
    num_hidden_layers: int = Field(24, ge=1, le=512)
    num_pooler_layers: int = Field(3, ge=0, le=512)
    mlp_ratio: float = Field(4.0, gt=0, le=64)
    qkv_bias: bool = True

    @model_validator(mode="after")
    def _fits_the_tubelet(self) -> VJepa2Config:
        if self.frames_per_clip % self.tubelet_size:
            raise ValueError(
                f"frames_per_clip={self.frames_per_clip}: not a multiple of the tubelet's {self.tubelet_size} frames"
            )
        return self

    @property
    def frames(self) -> int:
        """See `FolderConfig`."""
        return self.frames_per_clip

    @property
    def crop(self) -> Pair:
        """See `FolderConfig`."""
        return self.crop_size, self.crop_size

    @property
    def tubelet(self) -> tuple[int, int, int]:
        """See `FolderConfig`."""
        return self.tubelet_size, self.patch_size, self.patch_size

    @property
    def depth(self) -> str:
        """See `FolderConfig`."""
        return f"{self.num_hidden_layers} layers and {self.num_pooler_layers + 1} pooling layers"

    @property
    def fps(self) -> float:
        """See `FolderConfig`: every 4th frame of Something-Something v2, which has 12 fps."""
        return 3.0
