"""Store weights in ONNX as bytes: 8 bits for each, and one scale and zero point for each tensor.

The published ImageNet weights were trained for 8 bits, so each tensor has at most 256 values on an even grid. Bytes
hold them exactly, in a quarter of the space of fp32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from engines.arrays import F32, U8

LEAST_WEIGHTS = 512
"""A tensor with fewer weights is stored as it is."""
_GRID_TOLERANCE = 0.15
"""The largest distance from a level, in levels, of a weight that lies on a grid; fp16 moves it by up to 0.06."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ByteTensor:
    """Weights (level - zero) * scale, computed in fp32."""

    levels: U8
    zero: float
    scale: float

    @property
    def values(self) -> F32:
        """Return the weights in fp32."""
        return (self.levels.astype(np.float32) - np.float32(self.zero)) * np.float32(self.scale)


def to_bytes(weights: F32) -> ByteTensor:
    """Return the tensor's own grid if it has one, else the nearest of 256 even levels between its limits."""
    low, high = min(float(weights.min()), 0.0), max(float(weights.max()), 0.0)
    scale = _own_scale(weights) or max((high - low) / 255, 1e-12)
    zero = -round(low / scale)
    levels = np.clip(np.round(weights / np.float32(scale)) + zero, 0, 255).astype(np.uint8)
    return ByteTensor(levels=levels, zero=float(zero), scale=float(np.float32(scale)))


def _own_scale(weights: F32) -> float | None:
    """Return the step of the even grid of at most 256 levels on which all weights lie; None if there is none."""
    values = np.unique(weights).astype(np.float64)
    if not 2 <= len(values) <= 256:
        return None
    # The smallest steps are between weights near zero, which fp16 stores most exactly.
    near_zero = np.sort(np.abs(values))[:16]
    steps = np.diff(np.unique(near_zero.round(9)))
    scale = float(np.median(steps)) if len(steps) else 0.0
    if scale <= 0:
        return None
    for reach in (8, 32, 255):  # fit the step to weights farther and farther from zero
        part = values[np.abs(values) <= reach * scale]
        levels = np.round(part / scale)
        if not (levels**2).sum():
            return None
        scale = float((part * levels).sum() / (levels**2).sum())
    levels = np.round(values / scale)
    off_grid = np.abs(values / scale - levels).max() > _GRID_TOLERANCE
    return None if off_grid or levels.max() - levels.min() > 255 else scale


def round_weights(module: nn.Module) -> None:
    """Replace each large weight of convolutions and linear layers, in place, by the value that its bytes stand for."""
    with torch.no_grad():
        for layer in module.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear) and layer.weight.numel() >= LEAST_WEIGHTS:
                layer.weight.copy_(torch.from_numpy(to_bytes(layer.weight.numpy()).values))


def store_as_bytes(graph: Any) -> None:
    """Replace the weights of an `onnx.GraphProto`, in place, by bytes that the graph converts to fp32 when loaded.

    The weights must be those of `round_weights`; a tensor that bytes cannot hold exactly stays as it is.
    """
    kept, nodes = [], []
    for tensor in graph.initializer:
        values = numpy_helper.to_array(tensor)
        packed = to_bytes(values) if values.dtype == np.float32 and values.size >= LEAST_WEIGHTS else None
        if packed is None or not np.array_equal(packed.values, values):
            kept.append(tensor)
            continue
        name = tensor.name
        kept += [
            numpy_helper.from_array(packed.levels, f"{name}.levels"),
            numpy_helper.from_array(np.array(packed.zero, np.float32), f"{name}.zero"),
            numpy_helper.from_array(np.array(packed.scale, np.float32), f"{name}.scale"),
        ]
        nodes += [
            helper.make_node("Cast", [f"{name}.levels"], [f"{name}.cast"], f"{name}.cast", to=TensorProto.FLOAT),
            helper.make_node("Sub", [f"{name}.cast", f"{name}.zero"], [f"{name}.centred"], f"{name}.centre"),
            helper.make_node("Mul", [f"{name}.centred", f"{name}.scale"], [name], f"{name}.rescale"),
        ]
    following = [onnx.NodeProto.FromString(node.SerializeToString()) for node in graph.node]
    del graph.initializer[:], graph.node[:]
    graph.initializer.extend(kept)
    graph.node.extend([*nodes, *following])
