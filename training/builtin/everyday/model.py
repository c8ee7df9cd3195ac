"""The model of `everyday`: the appearance of one frame and the motion of all frames of a chunk.

The appearance comes from an ImageNet classifier, MobileNetV2 (Sandler et al. 2018, arXiv 1801.04381). The motion
encoder has no weights (`training.models.motion`). A feature has four parts:

| part | size | content |
|---|---|---|
| `appearance` | 1280 | the input of ImageNet's classifier: the last layer, averaged over the frame |
| `layout` | 384 | 96 channels of a middle layer, averaged over each quarter of the frame |
| `motion` | 38 | how much, how fast and how orderly things move |
| `motion_map` | 84 | in each of 4 x 7 fields of the frame: motion to the right, motion down, the share that moves |

Shapes: N chunks or windows, T chunks of t frames, H and W the frame's height and width, h and w half of them,
Q = N (t - 1) pairs of frames, K labels.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from training.builtin.everyday.byte_weights import round_weights
from training.errors import RunError
from training.models.base import ClipModel
from training.models.image_backbones import new_timm
from training.models.motion import MotionEncoder

BACKBONE: Final = "mobilenetv2_100"
CLASSES: Final = 1001
"""ImageNet's 1000 classes, and class 0, the background."""
FIELDS: Final = (4, 7)
"""Rows and columns of the motion map."""
QUARTERS: Final = (2, 2)
"""Rows and columns of the layout."""
_LAYOUT_STAGE: Final = 4
_SMALL: Final = 0.02  # added to a share before the logarithm


class Appearance(nn.Module):
    """Describe a frame (N, H, W, 3), float32 RGB from 0 to 255.

    Returns the last layer's mean (N, 1280), and the middle layer (N, C, y, x). `backbone` is a MobileNetV2 of timm.
    """

    def __init__(self, backbone: Any) -> None:
        super().__init__()
        _merge_batch_norms(backbone)
        self.stem = nn.Sequential(backbone.conv_stem, backbone.bn1)
        self.lower = nn.Sequential(*backbone.blocks[: _LAYOUT_STAGE + 1])
        self.upper = nn.Sequential(*backbone.blocks[_LAYOUT_STAGE + 1 :], backbone.conv_head, backbone.bn2)

    def forward(self, frame: Tensor) -> tuple[Tensor, Tensor]:
        """Scale the pixels to -1 to 1, as these weights need, and run the network."""
        pixels = frame.permute(0, 3, 1, 2) / 127.5 - 1
        middle = self.lower(self.stem(pixels))
        return self.upper(middle).mean(dim=3).mean(dim=2), middle


class EverydayEncoder(nn.Module):
    """Describe one chunk (N, t, H, W, 3) uint8 RGB by its four parts, one after the other: (N, 1786)."""

    def __init__(self, backbone: nn.Module, *, height: int, width: int, frames_per_chunk: int) -> None:
        super().__init__()
        self.middle_frame = frames_per_chunk // 2
        self.pairs = frames_per_chunk - 1
        self.appearance = Appearance(backbone)
        # At the largest size a second iteration costs a quarter of the whole encoder; it changes the figures little.
        self.motion = MotionEncoder(
            height=height,
            width=width,
            frames_per_chunk=frames_per_chunk,
            patch_size=7,
            damping=0.02,
            iterations=2,
            finest_iterations=1,
        )

    def forward(self, frames: Tensor) -> Tensor:
        """Encode one chunk; serving runs this graph once per chunk."""
        return torch.cat(self.parts(frames), dim=1)

    def parts(self, frames: Tensor) -> list[Tensor]:
        """Return the parts in the order of `feature_parts`, each (N, size)."""
        frames = frames.to(torch.float32)  # TensorRT reads uint8 for nothing but this
        appearance, middle = self.appearance(frames[:, self.middle_frame])
        numbers, flow = self.motion.measure(frames)
        return [appearance, _fields(middle, QUARTERS).flatten(1), numbers, self.motion_map(flow)]

    def motion_map(self, flow: Tensor) -> Tensor:
        """Average the motion (Q, 2, h, w) over each field and all pairs of frames: (N, 84)."""
        speed = (flow.square().sum(dim=1, keepdim=True) + 1e-8).sqrt()
        moving = ((speed - 0.4) / 0.2).clamp(0, 1)
        fields = _fields(torch.cat([flow, moving], dim=1), FIELDS)
        fields = fields.reshape(-1, self.pairs, *fields.shape[1:]).mean(dim=1)
        return torch.cat([fields[:, :2], (fields[:, 2:] + _SMALL).log()], dim=1).flatten(1)


class EverydayHead(nn.Module):
    """Classify the mean appearance of a window (N, T, F): the logarithm of each group's probability, (N, K)."""

    groups: Tensor

    def __init__(self, classifier: nn.Linear, groups: Tensor) -> None:
        super().__init__()
        self.classify = classifier
        self.register_buffer("groups", groups)

    def forward(self, features: Tensor) -> Tensor:
        """Classify one window; serving runs this graph once per window."""
        classes = self.classify(features[:, :, : self.classify.in_features].mean(dim=1)).softmax(dim=1)
        logits: Tensor = (classes @ self.groups + 1e-6).log()
        return logits


class EverydayModel(ClipModel):
    """The encoder, and a head that sums the probabilities of a MobileNetV2's classes by `groups` (classes, K)."""

    # The motion encoder amplifies rounding where a patch can hardly be matched, as `MotionModel` says.
    encoder_tolerance = 1e-3

    encoder: EverydayEncoder
    head: EverydayHead

    def __init__(self, backbone: nn.Module, groups: Tensor, *, height: int, width: int, frames_per_chunk: int) -> None:
        super().__init__()
        classifier = backbone.classifier
        assert isinstance(classifier, nn.Linear)
        self.encoder = EverydayEncoder(backbone, height=height, width=width, frames_per_chunk=frames_per_chunk)
        self.head = EverydayHead(classifier, groups)
        round_weights(self)
        self.eval()

    def part_sizes(self, frames: Tensor) -> dict[str, int]:
        """Return the sizes of the parts for chunks (N, t, H, W, 3)."""
        names = ("appearance", "layout", "motion", "motion_map")
        with torch.inference_mode():
            return {name: part.shape[1] for name, part in zip(names, self.encoder.parts(frames), strict=True)}


def load_backbone(weights: Path) -> nn.Module:
    """Read the published weights, fp16 with timm's names. Raises `RunError` where they do not fit."""
    backbone = new_timm(BACKBONE, num_classes=CLASSES, pad_type="same")
    try:
        state = {name: tensor.to(torch.float32) for name, tensor in load_file(weights).items()}
        backbone.load_state_dict(state)
    except (OSError, SafetensorError) as error:
        raise RunError(
            f"{weights}: cannot be read ({str(error).splitlines()[0]}); give the .safetensors file"
        ) from error
    except RuntimeError as error:
        raise RunError(
            f"{weights}: not the weights of timm's {BACKBONE} with {CLASSES} classes "
            f"({str(error).splitlines()[1].strip()[:160]})"
        ) from error
    return backbone.eval()


def _fields(x: Tensor, grid: tuple[int, int]) -> Tensor:
    """Average (N, C, y, x) over each field of a grid of equal fields; a remainder at the lower right is left out."""
    return F.avg_pool2d(x, (x.shape[2] // grid[0], x.shape[3] // grid[1]))[:, :, : grid[0], : grid[1]]


def _merge_batch_norms(backbone: nn.Module) -> None:
    """Merge each batch norm into the convolution before it, in place; its activation stays."""
    for parent in list(backbone.modules()):
        convolution: nn.Conv2d | None = None
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Conv2d):
                convolution = child
            elif isinstance(child, nn.BatchNorm2d) and convolution is not None:
                assert child.running_mean is not None
                assert child.running_var is not None
                factor = child.weight / (child.running_var + child.eps).sqrt()
                weight = convolution.weight * factor[:, None, None, None]
                bias = child.bias - child.running_mean * factor
                # In the published weights the factor is 1: the weights already contain it, and stay on their grid.
                if (factor - 1).abs().max() > 1e-5:
                    convolution.weight = nn.Parameter(weight.detach())
                convolution.bias = nn.Parameter(bias.detach())
                setattr(parent, name, getattr(child, "act", nn.Identity()))
                convolution = None
