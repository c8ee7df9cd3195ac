"""Define what every model has: a recipe, an encoder and a head."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import ClassVar, Final

from pydantic import Field
from torch import Tensor, nn
from typing_extensions import Self

from training.section import Section

TOLERANCE: Final = 1e-5
"""The largest accepted difference between PyTorch's and ONNX Runtime's fp32 outputs, relative to the largest output."""


class BaseModelRecipe(Section):
    """The keys that every model's recipe has."""

    height: int = Field(ge=8, le=4096, description="pixels")
    width: int = Field(ge=8, le=4096, description="pixels")
    frames_per_chunk: int = Field(ge=1, le=64, description="sampled frames that one encode reads")
    chunks: int = Field(ge=1, le=1024, description="chunks in one window")

    @abstractmethod
    def build(self, *, labels: int) -> ClipModel:
        """Build the model for `labels` classes, with fresh weights or with those that the recipe names.

        Raises `RecipeError` where the weights do not fit the model, `RunError` where they cannot be read.
        """

    @property
    def unused_keys(self) -> tuple[str, ...]:
        """Return the keys without an effect on this model, which depend on the values of other keys."""
        return ()

    def without_weights(self) -> Self:
        """Return the recipe of the same model with fresh weights: building it reads and downloads no file."""
        return self


class ClipModel(nn.Module):
    """Classify windows (N, T, t, H, W, 3) uint8 RGB into logits (N, K): encode each chunk, then apply the head.

    Shapes: N windows or chunks, T chunks of t frames, F the shape of one chunk's feature, K labels. A subclass sets:

    - `encoder`: one chunk's frames (N, t, H, W, 3) uint8 RGB -> feature (N, *F). The encoder normalises the pixels.
    - `head`: the features of one window (N, T, *F), oldest first -> logits (N, K).

    Serving runs the two as separate graphs: it encodes each chunk once and applies the head to each window.
    `encoder_tolerance` replaces `TOLERANCE` for an encoder that amplifies rounding. `may_tie` says that the model
    chooses (argmax) between scores that can be nearly equal: then rounding decides, and frameworks may choose
    differently.
    """

    encoder_tolerance: ClassVar[float] = TOLERANCE
    may_tie: ClassVar[bool] = False

    encoder: nn.Module
    head: nn.Module

    def features(self, frames: Tensor) -> Tensor:
        """Encode every chunk of every window: (N, T, t, H, W, 3) -> (N, T, *F)."""
        feature: Tensor = self.encoder(frames.flatten(0, 1))
        return feature.reshape(frames.shape[0], frames.shape[1], *feature.shape[1:])

    def forward(self, frames: Tensor) -> Tensor:
        """Classify whole windows, as training does: (N, T, t, H, W, 3) -> logits (N, K)."""
        logits: Tensor = self.head(self.features(frames))
        return logits

    def backbone_parameters(self) -> Iterator[nn.Parameter]:
        """Return the parameters that a recipe can freeze or train at a lower rate than the rest."""
        return self.encoder.parameters()
