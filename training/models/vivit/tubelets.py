"""Tubelet embedding (ViViT, section 3.2), and how it starts from an image model's patch embedding (section 3.4).

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
    """Frames (N, t, H, W, 3) uint8 RGB -> (N, P, D): each t x p x p voxels to one vector.

    `embedding`: `tubelet` reads all frames of a chunk at once, a 3D convolution that is t frames deep and so a 2D one
    over t C channels; `uniform` samples the frame in the middle of each chunk and reads it as an image.
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
            raise ValueError(f"embedding=uniform: reads one frame of a chunk, which has no {input_kind}; use tubelet")
        self.grid = (height // patch, width // patch)
        self.middle = frames // 2 if embedding == "uniform" else None
        self.pixels = PixelInput(
            frames=1 if embedding == "uniform" else frames, input_kind=input_kind, channels=channels
        )
        self.project = nn.Conv2d(self.pixels.images * channels, dim, patch, stride=patch)

    def forward(self, frames: Tensor) -> Tensor:
        """One row of patches after the other."""
        if self.middle is not None:
            frames = frames[:, self.middle : self.middle + 1]
        embedded: Tensor = self.project(self.pixels(frames).flatten(1, 2))
        return embedded.flatten(2).transpose(1, 2)

    def start_from(self, weight: Tensor, bias: Tensor, inflation: Inflation) -> None:
        """Take an image model's patch embedding: weight (D, 3, p, p), bias (D,). Differences start at zero."""
        d, inputs, p, _ = self.project.weight.shape
        channels = self.pixels.channels
        frames = (self.pixels.images + 1) // 2 if self.pixels.input_kind == "rgb+difference" else self.pixels.images
        if weight.shape != (d, 3, p, p):
            raise ValueError(f"its patches are {tuple(weight.shape)}, this model's {(d, 3, p, p)}: take one that fits")
        if self.pixels.input_kind == "difference":
            raise ValueError("input: difference reads no frames, an image model's patches say nothing to it")
        # A grey picture is the same in all three channels, so one channel does the work of all.
        weight = weight if channels == 3 else weight.sum(dim=1, keepdim=True)
        inflated = torch.zeros(d, inputs // channels, channels, p, p)
        if inflation == "filter":
            inflated[:, :frames] = weight[:, None] / frames
        else:
            inflated[:, frames // 2] = weight
        with torch.no_grad():
            self.project.weight.copy_(inflated.flatten(1, 2))
            self.project.bias.copy_(bias)  # type: ignore[union-attr]
