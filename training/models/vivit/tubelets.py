"""Embed tubelets (ViViT, section 3.2), also from an image model's patch embedding (section 3.4).

Shapes: N chunks of t frames, P = h w patches of p x p pixels, D width, C channels, M images (see `PixelInput`).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from training.models.input_pixels import InputKind, PixelInput

EmbeddingKind = Literal["tubelet", "uniform"]
Inflation = Literal["central", "filter"]


class Tubelets(nn.Module):
    """Embed frames (N, t, H, W, 3) uint8 RGB as vectors (N, P, D), one for each tubelet of t x p x p voxels.

    With `embedding: tubelet` a 3D convolution t frames deep reads all frames of a chunk; it is computed as a 2D
    convolution over t C channels. With `embedding: uniform` the middle frame of each chunk is embedded as an image.
    """

    def __init__(
        self,
        *,
        height: int,
        width: int,
        frames: int,
        patch: int,
        dim: int,
        embedding: EmbeddingKind = "tubelet",
        input_kind: InputKind = "rgb",
        channels: Literal[1, 3] = 3,
    ) -> None:
        super().__init__()
        for name, size in (("height", height), ("width", width)):
            if size % patch:
                raise ValueError(f"{name}={size}: must be a multiple of patch={patch}")
        if embedding == "uniform" and input_kind != "rgb":
            raise ValueError(
                f"embedding=uniform: reads one frame of a chunk, so it has no {input_kind}; use embedding: tubelet"
            )
        self.grid = (height // patch, width // patch)
        self.middle = frames // 2 if embedding == "uniform" else None
        self.pixels = PixelInput(
            frames=1 if embedding == "uniform" else frames, input_kind=input_kind, channels=channels
        )
        self.project = nn.Conv2d(self.pixels.images * channels, dim, patch, stride=patch)

    def forward(self, frames: Tensor) -> Tensor:
        """Embed all patches, row by row."""
        if self.middle is not None:
            frames = frames[:, self.middle : self.middle + 1]
        embedded: Tensor = self.project(self.pixels(frames).flatten(1, 2))
        return embedded.flatten(2).transpose(1, 2)

    def start_from(self, weight: Tensor, bias: Tensor, inflation: Inflation) -> None:
        """Copy an image model's patch embedding: weight (D, 3, p, p), bias (D,); differences start at zero."""
        d, inputs, p, _ = self.project.weight.shape
        channels = self.pixels.channels
        frames = (self.pixels.images + 1) // 2 if self.pixels.input_kind == "rgb+difference" else self.pixels.images
        if weight.shape != (d, 3, p, p):
            raise ValueError(
                f"its patches are {tuple(weight.shape)}, this model's {(d, 3, p, p)}; use an image model that fits"
            )
        if self.pixels.input_kind == "difference":
            raise ValueError("input=difference: reads no frames, as an image model's patches need; use rgb+difference")
        # All three channels of a grey frame are equal, so one channel with the summed weights is equivalent.
        weight = weight if channels == 3 else weight.sum(dim=1, keepdim=True)
        inflated = torch.zeros(d, inputs // channels, channels, p, p)
        if inflation == "filter":
            inflated[:, :frames] = weight[:, None] / frames
        else:
            inflated[:, frames // 2] = weight
        with torch.no_grad():
            self.project.weight.copy_(inflated.flatten(1, 2))
            self.project.bias.copy_(bias)  # type: ignore[union-attr]
