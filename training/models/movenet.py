"""MoveNet: where people are in a picture, and where their joints are. Reads the published TensorFlow.js graphs.

After its makers' words (Votel and Li 2021, "Next-generation pose detection with MoveNet and TensorFlow.js"): a
MobileNetV2 (Sandler et al. 2018), a feature pyramid up to a quarter of the picture, and four small heads as in
CenterNet (Zhou et al. 2019, "Objects as points"). Three nets are published, alike but for the first one's width:

| net | `multiplier` | made for |
|---|---|---|
| movenet-lightning | 1.0 | one person who fills the picture, 192 x 192 |
| movenet-multipose | 1.5 | several people, 256 x 256 |
| movenet-thunder | 1.75 | one person who fills the picture, 256 x 256 |

Their batch norms are folded into convolutions, so there are none here. Fully convolutional: any size will do.
Shapes: N pictures of h x w, both multiples of 32; J = 17 joints.
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
"""Nose, then left and right of: eye, ear, shoulder, elbow, wrist, hip, knee, ankle."""
MIRRORED: Final = (0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15)
"""Each joint's name in a mirror."""
STRIDE: Final = 4
"""Pixels to one cell of the maps."""

_STAGES: Final = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
"""MobileNetV2's table 2: expansion, channels, blocks, stride of the first."""
_TRUNK_CHANNELS: Final = 1280
_PYRAMID_BLOCKS: Final = (9, 5, 2)
"""The blocks, at 1/16, 1/8 and 1/4 of the picture, that the pyramid takes up."""
_PYRAMID_CHANNELS: Final = (64, 64, 32, 24)
"""Channels in which it takes them up, the deepest first."""
_HEAD_CHANNELS: Final = 24
_HEADS: Final = {"center": 1, "kpt_regress": 2 * JOINTS, "kpt_heatmap": JOINTS, "kpt_offset": 2 * JOINTS}
_MAX_GRAPH_BYTES: Final = 1 << 24
_MAX_WEIGHT_BYTES: Final = 1 << 26


class MoveNetMaps(NamedTuple):
    """What MoveNet says of every cell, (N, C, h/4, w/4): logits, or distances in cells, y before x for each joint."""

    centre: Tensor
    """C = 1, logits: whether a person's middle is here."""
    reach: Tensor
    """C = 2 J: how far from here that person's joints are."""
    heat: Tensor
    """C = J, logits: whether a joint, of anybody, is here."""
    offset: Tensor
    """C = 2 J: where in this cell the joint is."""


class MoveNet(nn.Module):
    """Pictures (N, 3, h, w) RGB from -1 to 1 -> `MoveNetMaps`."""

    def __init__(self, *, multiplier: float) -> None:
        super().__init__()
        wide = _scaled_channels(32, multiplier)
        self.stem = _PaddedConv(3, wide, size=3, stride=2, act=nn.ReLU6)
        blocks = []
        for expansion, channels, count, stride in _STAGES:
            for number in range(count):
                after = _scaled_channels(channels, multiplier)
                blocks.append(_MobileNetBlock(wide, after, expansion=expansion, stride=stride if number == 0 else 1))
                wide = after
        self.blocks = nn.ModuleList(blocks)
        self.deepest = _PaddedConv(wide, _TRUNK_CHANNELS, act=nn.ReLU6)
        lateral = (_TRUNK_CHANNELS, *(blocks[index].wide for index in _PYRAMID_BLOCKS))
        self.lateral = nn.ModuleList(_PaddedConv(a, b) for a, b in zip(lateral, _PYRAMID_CHANNELS, strict=True))
        self.smooth = nn.ModuleList(_SeparableConv(a, b) for a, b in pairwise((*_PYRAMID_CHANNELS[1:], _HEAD_CHANNELS)))
        self.heads = nn.ModuleDict(
            {
                name: nn.Sequential(_SeparableConv(_HEAD_CHANNELS, 96), _PaddedConv(96, count))
                for name, count in _HEADS.items()
            }
        )
        for part in self.modules():
            if isinstance(part, nn.Conv2d):
                nn.init.kaiming_normal_(part.weight, nonlinearity="relu")  # without norms the default dies out

    def forward(self, pictures: Tensor) -> MoveNetMaps:
        """See the class."""
        x = self.stem(pictures)
        tapped = []
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index in _PYRAMID_BLOCKS:
                tapped.append(x)
        x = self.lateral[0](self.deepest(x))
        for take, mix, finer in zip(self.lateral[1:], self.smooth, reversed(tapped), strict=True):
            x = mix(_upsample_bilinear(_upsample_bilinear(x, 2), 3) + take(finer))
        return MoveNetMaps(*(head(x) for head in self.heads.values()))


class _PaddedConv(nn.Module):
    """A convolution with TensorFlow's padding, then `act`."""

    def __init__(
        self,
        wide: int,
        wider: int,
        *,
        size: int = 1,
        stride: int = 1,
        groups: int = 1,
        act: type[nn.Module] = nn.Identity,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(wide, wider, size, stride, 0 if stride == 2 else size // 2, groups=groups)
        self.act = act()

    def forward(self, x: Tensor) -> Tensor:
        if self.conv.stride[0] == 2:
            x = F.pad(x, (0, 1, 0, 1))  # an even side is padded behind alone
        out: Tensor = self.act(self.conv(x))
        return out


class _MobileNetBlock(nn.Module):
    """MobileNetV2's inverted residual, (N, C, h, w) -> (N, `wide`, h / stride, w / stride)."""

    def __init__(self, wide: int, after: int, *, expansion: int, stride: int) -> None:
        super().__init__()
        inner = wide * expansion
        self.expand = _PaddedConv(wide, inner, act=nn.ReLU6) if expansion > 1 else nn.Identity()
        self.depthwise = _PaddedConv(inner, inner, size=3, stride=stride, groups=inner, act=nn.ReLU6)
        self.project = _PaddedConv(inner, after)
        self.wide, self.adds = after, stride == 1 and wide == after

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.project(self.depthwise(self.expand(x)))
        return x + y if self.adds else y


class _SeparableConv(nn.Sequential):
    """A 3 x 3 convolution of each channel, then one over channels, then ReLU."""

    def __init__(self, wide: int, wider: int) -> None:
        depthwise = nn.Conv2d(wide, wide, 3, padding=1, groups=wide, bias=False)
        super().__init__(depthwise, _PaddedConv(wide, wider, act=nn.ReLU))


def _scaled_channels(channels: int, multiplier: float) -> int:
    """MobileNet's rounding to multiples of 8, never down by more than a tenth."""
    wanted = channels * multiplier
    rounded = max(8, int(wanted + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * wanted else rounded + 8


def _upsample_bilinear(x: Tensor, dim: int) -> Tensor:
    """Twice as long along `dim`, bilinear between cells' middles; torch's own becomes a Resize that opset 17 lacks."""
    length = x.shape[dim]
    before = torch.cat([x.narrow(dim, 0, 1), x.narrow(dim, 0, length - 1)], dim)
    after = torch.cat([x.narrow(dim, 1, length - 1), x.narrow(dim, length - 1, 1)], dim)
    return torch.stack([0.25 * before + 0.75 * x, 0.75 * x + 0.25 * after], dim + 1).flatten(dim, dim + 1)


def load_movenet(net: MoveNet, path: Path) -> None:
    """Fill `net` from a TensorFlow.js graph, `path` being its .json, with the .bin that it names beside it.

    Raises `RunError` where the files cannot be read, `RecipeError` where they hold another network.
    """
    given = _read_tfjs(path)
    with torch.no_grad():
        for conv, weight, bias in _tensor_names(net):
            for target, pattern in ((conv.weight, weight), (conv.bias, bias)):
                if target is None:
                    continue
                found = [name for name in given if re.search(pattern + "$", name)]
                if len(found) != 1:
                    raise RecipeError(f"{path}: has {len(found)} tensors {pattern}, wanted one; give a MoveNet's .json")
                value = torch.from_numpy(given[found[0]])
                if value.ndim == 4:  # (rows, columns, in, out); of a depthwise one (rows, columns, channels, 1)
                    value = value.permute((2, 3, 0, 1) if conv.groups > 1 else (3, 2, 0, 1))
                if value.numel() != target.numel() or (value.ndim == 4 and value.shape != target.shape):
                    raise RecipeError(
                        f"{path}: {found[0]} is {tuple(value.shape)}, this net's {tuple(target.shape)}; "
                        "model.multiplier is 1.0 for lightning, 1.5 for multipose, 1.75 for thunder"
                    )
                target.copy_(value.reshape(target.shape))


def _tensor_names(net: MoveNet) -> Iterator[tuple[nn.Conv2d, str, str]]:
    """Each convolution with the ends of its two tensors' names."""
    blocks: Any = net.blocks  # what is in them, no type checker knows
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
    for index, take in enumerate(lateral):
        name = f"/model_1/conv2d_{index}" if index else "/model_1/conv2d"
        yield take.conv, f"{name}/Conv2D/ReadVariableOp", f"{name}/BiasAdd/ReadVariableOp"
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
    """The float tensors of a TensorFlow.js graph. Raises `RunError`."""
    try:
        if path.stat().st_size > _MAX_GRAPH_BYTES:
            raise RunError(f"{path}: {path.stat().st_size} bytes, at most {_MAX_GRAPH_BYTES}; give MoveNet's .json")
        groups: Any = json.loads(path.read_text(encoding="utf-8"))["weightsManifest"]
        out: dict[str, npt.NDArray[np.float32]] = {}
        for group in groups:
            data = b"".join(_read_beside(path, str(name)) for name in group["paths"])
            at = 0
            for tensor in group["weights"]:
                kind = np.dtype(tensor.get("quantization", tensor)["dtype"])
                count = int(np.prod(tensor["shape"]))
                values = np.frombuffer(data, kind, count, at).reshape(tensor["shape"])
                at += count * kind.itemsize
                if kind in (np.float16, np.float32):
                    out[str(tensor["name"])] = values.astype(np.float32)
        return out
    except (OSError, ValueError, KeyError, TypeError) as error:
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise RunError(f"{path}: not a TensorFlow.js graph with its weights beside it ({said})") from error


def _read_beside(path: Path, name: str) -> bytes:
    """A file that the graph names, in its own folder alone."""
    file = path.parent / Path(name).name
    if file.stat().st_size > _MAX_WEIGHT_BYTES:
        raise RunError(f"{file}: {file.stat().st_size} bytes, at most {_MAX_WEIGHT_BYTES}; give MoveNet's files")
    return file.read_bytes()
