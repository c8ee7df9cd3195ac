"""Implement MoveNet, which locates people and their joints, and load its published TensorFlow.js weights.

The architecture follows its authors' description (Votel and Li 2021, "Next-generation pose detection with MoveNet and
TensorFlow.js"): a MobileNetV2 (Sandler et al. 2018), a feature pyramid up to a quarter of the image size, and four
small heads as in CenterNet (Zhou et al. 2019, "Objects as points"). Three networks are published. They differ in the
width of the MobileNetV2:

| network | `multiplier` | intended for |
|---|---|---|
| movenet-lightning | 1.0 | one person who fills the image, 192 x 192 |
| movenet-multipose | 1.5 | several people, 256 x 256 |
| movenet-thunder | 1.75 | one person who fills the image, 256 x 256 |

The published weights have the batch norms folded into the convolutions, so this module has none. The network is fully
convolutional and takes any size. Shapes: N images of h x w, both multiples of 32; J = 17 joints.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.errors import RecipeError, RunError

JOINTS: Final = 17
"""In order: nose, then left and right eye, ear, shoulder, elbow, wrist, hip, knee, ankle."""
MIRRORED: Final = (0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15)
"""The joint that each joint becomes in a mirror image."""
STRIDE: Final = 4
"""Pixels per cell of the output maps, in each direction."""

_STAGES: Final = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
"""MobileNetV2's table 2: expansion, channels, number of blocks, stride of the first block."""
_TRUNK_CHANNELS: Final = 1280
_PYRAMID_BLOCKS: Final = (9, 5, 2)
"""The blocks whose outputs, at 1/16, 1/8 and 1/4 of the size, the feature pyramid reads."""
_PYRAMID_CHANNELS: Final = (64, 64, 32, 24)
"""Channels of the pyramid's lateral connections, deepest first."""
_HEAD_CHANNELS: Final = 24
_HEADS: Final = {"center": 1, "kpt_regress": 2 * JOINTS, "kpt_heatmap": JOINTS, "kpt_offset": 2 * JOINTS}
_MAX_GRAPH_BYTES: Final = 1 << 24
_MAX_WEIGHT_BYTES: Final = 1 << 26


class MoveNetMaps(NamedTuple):
    """MoveNet's output for every cell, (N, C, h/4, w/4): logits, or distances in cells with y before x."""

    centre: Tensor
    """C = 1, logits: whether a person's centre is in this cell."""
    reach: Tensor
    """C = 2 J: the offsets from this cell to the joints of the person centred here."""
    heat: Tensor
    """C = J, logits: whether a joint of any person is in this cell."""
    offset: Tensor
    """C = 2 J: the joint's position within this cell."""


class MoveNet(nn.Module):
    """Locate people and joints: images (N, 3, h, w) RGB from -1 to 1 -> `MoveNetMaps`."""

    def __init__(self, *, multiplier: float) -> None:
        super().__init__()
        width = _scaled_channels(32, multiplier)
        self.stem = _PaddedConv(3, width, size=3, stride=2, act=nn.ReLU6)
        blocks = []
        for expansion, channels, count, stride in _STAGES:
            for number in range(count):
                outputs = _scaled_channels(channels, multiplier)
                blocks.append(_MobileNetBlock(width, outputs, expansion=expansion, stride=stride if number == 0 else 1))
                width = outputs
        self.blocks = nn.ModuleList(blocks)
        self.deepest = _PaddedConv(width, _TRUNK_CHANNELS, act=nn.ReLU6)
        sources = (_TRUNK_CHANNELS, *(blocks[index].outputs for index in _PYRAMID_BLOCKS))
        self.lateral = nn.ModuleList(_PaddedConv(a, b) for a, b in zip(sources, _PYRAMID_CHANNELS, strict=True))
        self.smooth = nn.ModuleList(_SeparableConv(a, b) for a, b in pairwise((*_PYRAMID_CHANNELS[1:], _HEAD_CHANNELS)))
        self.heads = nn.ModuleDict(
            {
                name: nn.Sequential(_SeparableConv(_HEAD_CHANNELS, 96), _PaddedConv(96, count))
                for name, count in _HEADS.items()
            }
        )
        for part in self.modules():
            if isinstance(part, nn.Conv2d):
                nn.init.kaiming_normal_(
                    part.weight, nonlinearity="relu"
                )  # without norms, the default makes activations vanish

    def forward(self, images: Tensor) -> MoveNetMaps:
        """Run the network on images (N, 3, h, w)."""
        x = self.stem(images)
        tapped = []
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index in _PYRAMID_BLOCKS:
                tapped.append(x)
        x = self.lateral[0](self.deepest(x))
        for lateral, smooth, finer in zip(self.lateral[1:], self.smooth, reversed(tapped), strict=True):
            x = smooth(_upsample_bilinear(_upsample_bilinear(x, 2), 3) + lateral(finer))
        return MoveNetMaps(*(head(x) for head in self.heads.values()))


class _PaddedConv(nn.Module):
    """A convolution with TensorFlow's padding, then the activation `act`."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        size: int = 1,
        stride: int = 1,
        groups: int = 1,
        act: type[nn.Module] = nn.Identity,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, size, stride, 0 if stride == 2 else size // 2, groups=groups)
        self.act = act()

    def forward(self, x: Tensor) -> Tensor:
        if self.conv.stride[0] == 2:
            x = F.pad(x, (0, 1, 0, 1))  # for an even size TensorFlow pads only at the end
        out: Tensor = self.act(self.conv(x))
        return out


class _MobileNetBlock(nn.Module):
    """MobileNetV2's inverted residual block: (N, inputs, h, w) -> (N, outputs, h / stride, w / stride)."""

    def __init__(self, inputs: int, outputs: int, *, expansion: int, stride: int) -> None:
        super().__init__()
        inner = inputs * expansion
        self.expand = _PaddedConv(inputs, inner, act=nn.ReLU6) if expansion > 1 else nn.Identity()
        self.depthwise = _PaddedConv(inner, inner, size=3, stride=stride, groups=inner, act=nn.ReLU6)
        self.project = _PaddedConv(inner, outputs)
        self.outputs, self.adds = outputs, stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.project(self.depthwise(self.expand(x)))
        return x + y if self.adds else y


class _SeparableConv(nn.Sequential):
    """A depthwise 3 x 3 convolution, a pointwise convolution, then ReLU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        depthwise = nn.Conv2d(inputs, inputs, 3, padding=1, groups=inputs, bias=False)
        super().__init__(depthwise, _PaddedConv(inputs, outputs, act=nn.ReLU))


def _scaled_channels(channels: int, multiplier: float) -> int:
    """Scale the width and round to a multiple of 8, never down by more than a tenth, as MobileNet does."""
    wanted = channels * multiplier
    rounded = max(8, int(wanted + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * wanted else rounded + 8


def _upsample_bilinear(x: Tensor, dim: int) -> Tensor:
    """Double `dim` by linear interpolation; torch's own function exports a Resize that opset 17 lacks."""
    length = x.shape[dim]
    before = torch.cat([x.narrow(dim, 0, 1), x.narrow(dim, 0, length - 1)], dim)
    after = torch.cat([x.narrow(dim, 1, length - 1), x.narrow(dim, length - 1, 1)], dim)
    return torch.stack([0.25 * before + 0.75 * x, 0.75 * x + 0.25 * after], dim + 1).flatten(dim, dim + 1)


def load_movenet(net: MoveNet, path: Path) -> None:
    """Load weights from a TensorFlow.js model: `path` is its .json; the .bin that it names is in the same folder.

    Raises `RunError` where the files cannot be read, `RecipeError` where they hold another network.
    """
    given = _read_tfjs(path)
    with torch.no_grad():
        for conv, weight, bias in tensor_names(net):
            for target, pattern in ((conv.weight, weight), (conv.bias, bias)):
                if target is None:
                    continue
                found = [name for name in given if re.search(pattern + "$", name)]
                if len(found) != 1:
                    raise RecipeError(f"{path}: has {len(found)} tensors {pattern}, expected one; give MoveNet's .json")
                value = torch.from_numpy(given[found[0]])
                if value.ndim == 4:  # (rows, columns, in, out); depthwise: (rows, columns, channels, 1)
                    value = value.permute((2, 3, 0, 1) if conv.groups > 1 else (3, 2, 0, 1))
                if value.numel() != target.numel() or (value.ndim == 4 and value.shape != target.shape):
                    raise RecipeError(
                        f"{path}: {found[0]} has shape {tuple(value.shape)}, this network's {tuple(target.shape)}; "
                        "model.multiplier is 1.0 for lightning, 1.5 for multipose, 1.75 for thunder"
                    )
                target.copy_(value.reshape(target.shape))


def tensor_names(net: MoveNet) -> Iterator[tuple[nn.Conv2d, str, str]]:
    """Yield each convolution with patterns for the ends of its weight's and its bias's names; '' for no bias."""
    blocks: Any = net.blocks  # mypy does not know what these lists hold
    lateral: Any = net.lateral
    smooth: Any = net.smooth
    heads: Any = net.heads
    trunk = "/model_1/model/"
    yield net.stem.conv, f"{trunk}Conv1/Conv2D_weights", f"{trunk}Conv1/Conv2D_bn_offset"
    for index, block in enumerate(blocks):
        name = f"{trunk}block_{index}" if index else f"{trunk}expanded_conv"
        if isinstance(block.expand, _PaddedConv):
            yield block.expand.conv, f"{name}_expand/Conv2D_weights", f"{name}_expand/Conv2D_bn_offset"
        depthwise, project = block.depthwise, block.project
        yield depthwise.conv, f"{name}_depthwise/depthwise_weights", f"{name}_depthwise/depthwise_bn_offset"
        yield project.conv, f"{name}_project/Conv2D_weights", f"{name}_project/Conv2D_bn_offset"
    yield net.deepest.conv, f"{trunk}Conv_1/Conv2D_weights", f"{trunk}Conv_1/Conv2D_bn_offset"
    for index, connection in enumerate(lateral):
        name = f"/model_1/conv2d_{index}" if index else "/model_1/conv2d"
        yield connection.conv, f"{name}/Conv2D/ReadVariableOp", f"{name}/BiasAdd/ReadVariableOp"
    for index, (depthwise, pointwise) in enumerate(smooth):
        name = f"/model_1/separable_conv2d_{index}" if index else "/model_1/separable_conv2d"
        yield depthwise, f"{name}/separable_conv2d/ReadVariableOp", ""
        yield pointwise.conv, f"{name}/separable_conv2d_weights", f"{name}/separable_conv2d_bn_offset"
    for head, ((depthwise, pointwise), last) in heads.items():
        name = rf"/{head}_0/separable_conv2d_\d+"
        yield depthwise, f"{name}/separable_conv2d/ReadVariableOp", ""
        yield pointwise.conv, f"{name}/separable_conv2d/ReadVariableOp_1", f"{name}/BiasAdd/ReadVariableOp"
        name = rf"/{head}_0/conv2d_\d+"
        yield last.conv, f"{name}/Conv2D/ReadVariableOp", f"{name}/BiasAdd/ReadVariableOp"


def _read_tfjs(path: Path) -> dict[str, npt.NDArray[np.float32]]:
    """Read the float tensors of a TensorFlow.js model. Raises `RunError`."""
    try:
        if path.stat().st_size > _MAX_GRAPH_BYTES:
            raise RunError(f"{path}: {path.stat().st_size} bytes, at most {_MAX_GRAPH_BYTES}; give MoveNet's .json")
        groups: Any = json.loads(path.read_text(encoding="utf-8"))["weightsManifest"]
        out: dict[str, npt.NDArray[np.float32]] = {}
        for group in groups:
            data = b"".join(_read_beside(path, str(name)) for name in group["paths"])
            offset = 0
            for tensor in group["weights"]:
                dtype = np.dtype(tensor.get("quantization", tensor)["dtype"])
                count = int(np.prod(tensor["shape"]))
                values = np.frombuffer(data, dtype, count, offset).reshape(tensor["shape"])
                offset += count * dtype.itemsize
                if dtype in (np.float16, np.float32):
                    out[str(tensor["name"])] = values.astype(np.float32)
        return out
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise RunError(f"{path}: not a TensorFlow.js model with its weights in the same folder ({reason})") from error


def _read_beside(path: Path, name: str) -> bytes:
    """Read a file that the model names, from the model's own folder only."""
    file = path.parent / Path(name).name
    if file.stat().st_size > _MAX_WEIGHT_BYTES:
        raise RunError(f"{file}: {file.stat().st_size} bytes, at most {_MAX_WEIGHT_BYTES}; give MoveNet's files")
    return file.read_bytes()
