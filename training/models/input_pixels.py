"""Bytes to what a network reads. The first operation of every encoder, so that serving cannot get it wrong.

Shapes: N chunks of t frames; M images of C channels that come out.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

InputKind = Literal["rgb", "difference", "rgb+difference"]

_DIFFERENCE_GAIN = 4.0  # neighbouring frames differ by an order of magnitude less than a frame's pixels do


def images_in(frames: int, input_kind: InputKind) -> int:
    """M: how many images a chunk of `frames` gives."""
    return {"rgb": frames, "difference": frames - 1, "rgb+difference": 2 * frames - 1}[input_kind]


class PixelInput(nn.Module):
    """Frames (N, t, H, W, 3) uint8 RGB -> (N, M, C, H, W), about centred on 0 and of unit size.

    `reads`: the t frames, the t - 1 differences of each to the one before it, or both, frames first.
    `channels`: 1 reads the first channel alone, for grey pictures that are written three times.
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
        """Mean and standard deviation are of pixels from 0 to 1, per channel."""
        x = frames.to(torch.float32).permute(0, 1, 4, 2, 3)
        if self.channels == 1:
            x = x[:, :, :1]
        x = x * self.scale + self.shift
        if self.input_kind == "rgb":
            return x
        change = (x[:, 1:] - x[:, :-1]) * _DIFFERENCE_GAIN
        return change if self.input_kind == "difference" else torch.cat([x, change], dim=1)
