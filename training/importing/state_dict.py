"""Rename and reshape a checkpoint's tensors for `training.importing.networks`."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from training.errors import FolderError
from training.importing.config import WindowAttentionConfig
from training.weights import State


class CheckpointTensors:
    """A checkpoint's tensors by name. Each can be popped once, so unused tensors are found at the end."""

    def __init__(self, state: State, where: str) -> None:
        self.state, self.where = dict(state), where

    def pop(self, name: str, shape: tuple[int, ...] | None = None) -> Tensor:
        """Remove and return a tensor. Raises `FolderError` if it is missing or has another shape than `shape`."""
        if name not in self.state:
            raise FolderError(f"{self.where}: has no {name}; config.json describes another model")
        tensor = self.state.pop(name)
        if shape is not None and tensor.shape != shape:
            raise FolderError(
                f"{self.where}: {name} has shape {tuple(tensor.shape)}, but config.json implies {shape}; "
                "they belong to different models"
            )
        return tensor

    def pop_first(self, *names: str) -> Tensor | None:
        """Remove and return the first of these tensors that exists, or None."""
        return next((self.state.pop(name) for name in names if name in self.state), None)

    def renamed(self, theirs: str, ours: str) -> State:
        """Remove and return a module's weight and bias under our name."""
        return {f"{ours}.{kind}": self.pop(f"{theirs}.{kind}") for kind in ("weight", "bias")}

    def projections(self, theirs: str, ours: str, names: Mapping[str, str], dim: int, *, bias: bool = True) -> State:
        """Remove and return an attention's projections under our names; without `bias` theirs have none."""
        state: State = {}
        for their_name, our_name in names.items():
            state[f"{ours}.{our_name}.weight"] = self.pop(f"{theirs}.{their_name}.weight")
            state[f"{ours}.{our_name}.bias"] = self.pop_bias(f"{theirs}.{their_name}.bias", dim, bias=bias)
        return state

    def pop_bias(self, name: str, width: int, *, bias: bool = True) -> Tensor:
        """Remove and return `width` values, or return zeros if there is no `bias`."""
        return self.pop(name, (width,)) if bias else torch.zeros(width)

    def patch_embedding(self, theirs: str, ours: str) -> State:
        """Convert a 3D convolution (D, 3, t, p, p) to a 2D one (D, 3 t, p, p), frames outermost."""
        weight = self.pop(f"{theirs}.weight")
        if weight.ndim != 5:
            raise FolderError(f"{self.where}: {theirs}.weight has {weight.ndim} axes, expected 5")
        weight = weight.transpose(1, 2).flatten(1, 2).contiguous()
        return {f"{ours}.weight": weight, f"{ours}.bias": self.pop(f"{theirs}.bias")}

    def drop(self, prefix: str) -> None:
        """Remove the tensors of a part that classification does not read."""
        self.state = {name: tensor for name, tensor in self.state.items() if not name.startswith(prefix)}

    def check_all_used(self) -> None:
        """Raise `FolderError` for a tensor that was not popped, except those that classification does not read."""
        unused = sorted(name for name in self.state if ".pooler." not in name and not name.startswith("decoder."))
        if unused:
            raise FolderError(f"{self.where}: {len(unused)} tensors do not belong to the model, such as {unused[0]}")


def convert_state(config: WindowAttentionConfig, tensors: CheckpointTensors) -> State:
    """Return the `state_dict` of ViViT, VideoMAE or TimeSformer. Raises `FolderError` for a missing tensor."""
    prefix = config.model_type
    embedding = f"{prefix}.embeddings.patch_embeddings.projection"
    three_axes = config.model_type != "timesformer"
    ours = (tensors.patch_embedding if three_axes else tensors.renamed)(embedding, "encoder.project")
    ours |= _positions(config, tensors, f"{prefix}.embeddings")
    for index in range(config.num_hidden_layers):
        ours |= _layer(config, tensors, f"{prefix}.encoder.layer.{index}", f"head.layers.{index}")
    norm = "fc_norm" if prefix == "videomae" and config.use_mean_pooling else f"{prefix}.layernorm"
    return ours | tensors.renamed(norm, "head.norm") | tensors.renamed("classifier", "head.classify")


def _positions(config: WindowAttentionConfig, tensors: CheckpointTensors, name: str) -> State:
    """Return position embeddings and the class token; TimeSformer's positions are the sum of space and time."""
    if config.model_type == "videomae":
        return {"head.positions": sinusoids(config.chunks * config.patches, config.hidden_size)}
    table = tensors.pop(f"{name}.position_embeddings")
    state = {"head.class_token": tensors.pop(f"{name}.cls_token")}
    if config.model_type == "timesformer":
        time = tensors.pop(f"{name}.time_embeddings")  # (1, T, D); none for the class token
        patches = (table[:, None, 1:] + time[:, :, None]).flatten(1, 2)
        table = torch.cat([table[:, :1], patches], dim=1)
    return state | {"head.positions": table}


def sinusoids(length: int, dim: int) -> Tensor:
    """Compute VideoMAE's fixed positions (1, length, dim), alternately sine and cosine (Vaswani 2017, section 3.5)."""
    position = torch.arange(length, dtype=torch.float64)[:, None]
    pair = torch.arange(dim) // 2
    angle = position * torch.exp(-math.log(10_000) * 2 * pair / dim)
    odd = torch.arange(dim) % 2 == 1
    return torch.where(odd, angle.cos(), angle.sin()).to(torch.float32)[None]


def _layer(config: WindowAttentionConfig, tensors: CheckpointTensors, theirs: str, ours: str) -> State:
    """Rename the tensors of one transformer layer."""
    divided = config.model_type == "timesformer" and config.attention_type == "divided_space_time"
    state = _attention(config, tensors, f"{theirs}.attention", f"{ours}.attention")
    for their_name, our_name in (
        ("layernorm_before", "norm1"),
        ("layernorm_after", "norm2"),
        ("intermediate.dense", "mlp.0"),
        ("output.dense", "mlp.2"),
    ):
        state |= tensors.renamed(f"{theirs}.{their_name}", f"{ours}.{our_name}")
    if divided:
        state |= _attention(config, tensors, f"{theirs}.temporal_attention", f"{ours}.time_attention")
        state |= tensors.renamed(f"{theirs}.temporal_layernorm", f"{ours}.norm_time")
        state |= tensors.renamed(f"{theirs}.temporal_dense", f"{ours}.time_out")
    return state


def _attention(config: WindowAttentionConfig, tensors: CheckpointTensors, theirs: str, ours: str) -> State:
    """Split and rename q, k and v. A missing bias, such as the bias of VideoMAE's keys, becomes zeros."""
    inner, zeros = f"{theirs}.attention", torch.zeros(config.hidden_size)
    state = tensors.renamed(f"{theirs}.output.dense", f"{ours}.out")
    if config.model_type == "timesformer":
        weights: tuple[Tensor, ...] = tensors.pop(f"{inner}.qkv.weight").chunk(3)
        joined = tensors.pop_first(f"{inner}.qkv.bias")
        biases: list[Tensor] = [zeros] * 3 if joined is None else list(joined.chunk(3))
    else:
        weights = tuple(tensors.pop(f"{inner}.{name}.weight") for name in ("query", "key", "value"))
        found = [
            tensors.pop_first(f"{inner}.query.bias", f"{inner}.q_bias"),
            tensors.pop_first(f"{inner}.key.bias"),
            tensors.pop_first(f"{inner}.value.bias", f"{inner}.v_bias"),
        ]
        biases = [zeros if bias is None else bias for bias in found]
    for name, weight, bias in zip("qkv", weights, biases, strict=True):
        state |= {f"{ours}.{name}.weight": weight.contiguous(), f"{ours}.{name}.bias": bias.clone()}
    return state
