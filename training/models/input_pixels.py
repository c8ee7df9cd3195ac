"""Normalise uint8 frames inside the encoder, so that training and serving cannot differ.

Shapes: N chunks of t frames; M output images of C channels.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

InputKind = Literal["rgb", "difference", "rgb+difference"]

_DIFFERENCE_GAIN = 4.0  # differences of neighbouring frames are an order of magnitude smaller than pixels


def images_in(frames: int, input_kind: InputKind) -> int:
    """Return M, the number of images that a chunk of `frames` frames becomes."""
    return {"rgb": frames, "difference": frames - 1, "rgb+difference": 2 * frames - 1}[input_kind]


class PixelInput(nn.Module):
    """Convert frames (N, t, H, W, 3) uint8 RGB to images (N, M, C, H, W) float32 of about zero mean and unit variance.

    `input_kind`: `rgb` gives the t frames, `difference` the t - 1 differences of each frame to the one before,
    `rgb+difference` both, frames first. `channels`: 1 reads the first channel, for grey frames stored three times.
    """

    scale: Tensor
    shift: Tensor

    def __init__(
        self,
        *,
        frames: int,
        input_kind: InputKind = "rgb",
        channels: Literal[1, 3] = 3,
        mean: tuple[float, float, float] = (0.5, 0.5, 0.5),
        std: tuple[float, float, float] = (0.5, 0.5, 0.5),
    ) -> None:
        super().__init__()
        if input_kind != "rgb" and frames < 2:
            raise ValueError(
                f"input_kind={input_kind}: a chunk of frames_per_chunk={frames} has no differences; give 2 or more"
            )
        self.input_kind, self.channels = input_kind, channels
        self.images = images_in(frames, input_kind)
        scale = 1 / (255 * torch.tensor(std[:channels]))
        self.register_buffer("scale", scale.reshape(1, 1, -1, 1, 1), persistent=False)
        shift = -torch.tensor(mean[:channels]) / torch.tensor(std[:channels])
        self.register_buffer("shift", shift.reshape(1, 1, -1, 1, 1), persistent=False)

    def forward(self, frames: Tensor) -> Tensor:
        """Scale pixels to 0..1, then apply mean and standard deviation per channel."""
        x = frames.to(torch.float32).permute(0, 1, 4, 2, 3)
        if self.channels == 1:
            x = x[:, :, :1]
        x = x * self.scale + self.shift
        if self.input_kind == "rgb":
            return x
        change = (x[:, 1:] - x[:, :-1]) * _DIFFERENCE_GAIN
        return change if self.input_kind == "difference" else torch.cat([x, change], dim=1)
