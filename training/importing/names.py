"""The tensors of a folder, renamed and reshaped to those of our parts (`training.importing.networks`)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from training.errors import FolderError
from training.importing.folder import FolderConfig
from training.weights import State


class CheckpointTensors:
    """Tensors by their names in the folder; knows which nobody asked for."""

    def __init__(self, state: State, where: str) -> None:
        self.state, self.where = dict(state), where

    def pop(self, name: str) -> Tensor:
        """Raises `FolderError` where it is not there."""
        if name not in self.state:
            raise FolderError(f"{self.where}: has no {name}; config.json describes another model")
        return self.state.pop(name)

    def pop_first(self, *names: str) -> Tensor | None:
        """The first of these that is there."""
        return next((self.state.pop(name) for name in names if name in self.state), None)

    def check_all_used(self) -> None:
        """Raises `FolderError` for a tensor that would be left out, unless nothing reads it to classify."""
        left = sorted(name for name in self.state if ".pooler." not in name and not name.startswith("decoder."))
        if left:
            raise FolderError(f"{self.where}: {len(left)} tensors that the model has no place for, such as {left[0]}")


def convert_state(config: FolderConfig, state: State, where: str) -> State:
    """State of an `ImportedModel` model. Raises `FolderError`."""
    tensors, prefix = CheckpointTensors(state, where), config.model_type
    ours = _embedding(config, tensors, f"{prefix}.embeddings.patch_embeddings.projection")
    ours |= _positions(config, tensors, f"{prefix}.embeddings")
    for index in range(config.num_hidden_layers):
        ours |= _layer(config, tensors, f"{prefix}.encoder.layer.{index}", f"head.layers.{index}")
    norm = "fc_norm" if prefix == "videomae" and config.use_mean_pooling else f"{prefix}.layernorm"
    ours |= _both(tensors, norm, "head.norm") | _both(tensors, "classifier", "head.classify")
    tensors.check_all_used()
    return ours


def _both(tensors: CheckpointTensors, theirs: str, ours: str) -> State:
    return {f"{ours}.{kind}": tensors.pop(f"{theirs}.{kind}") for kind in ("weight", "bias")}


def _embedding(config: FolderConfig, tensors: CheckpointTensors, name: str) -> State:
    """A 3D convolution (D, 3, t, p, p) as a 2D one over t frames' channels, frames outermost."""
    weight = tensors.pop(f"{name}.weight")
    if config.model_type != "timesformer":
        if weight.ndim != 5:
            raise FolderError(f"{tensors.where}: {name}.weight has {weight.ndim} axes, a tubelet's has 5")
        weight = weight.transpose(1, 2).flatten(1, 2)
    return {"encoder.project.weight": weight.contiguous(), "encoder.project.bias": tensors.pop(f"{name}.bias")}


def _positions(config: FolderConfig, tensors: CheckpointTensors, name: str) -> State:
    if config.model_type == "videomae":
        return {"head.positions": sinusoids(config.chunks * config.patches, config.hidden_size)}
    table = tensors.pop(f"{name}.position_embeddings")
    state = {"head.class_token": tensors.pop(f"{name}.cls_token")}
    if config.model_type == "timesformer":
        time = tensors.pop(f"{name}.time_embeddings")  # (1, T, D); the class token has none
        both = (table[:, None, 1:] + time[:, :, None]).flatten(1, 2)
        table = torch.cat([table[:, :1], both], dim=1)
    return state | {"head.positions": table}


def sinusoids(places: int, dim: int) -> Tensor:
    """(1, places, D): VideoMAE's fixed positions (Vaswani et al. 2017, section 3.5), sine and cosine in turn."""
    place = torch.arange(places, dtype=torch.float64)[:, None]
    pair = torch.arange(dim) // 2
    angle = place * torch.exp(-math.log(10_000) * 2 * pair / dim)
    odd = torch.arange(dim) % 2 == 1
    return torch.where(odd, angle.cos(), angle.sin()).to(torch.float32)[None]


def _layer(config: FolderConfig, tensors: CheckpointTensors, theirs: str, ours: str) -> State:
    divided = config.model_type == "timesformer" and config.attention_type == "divided_space_time"
    state = _attention(config, tensors, f"{theirs}.attention", f"{ours}.attention")
    for name, kept in (
        ("layernorm_before", "norm1"),
        ("layernorm_after", "norm2"),
        ("intermediate.dense", "mlp.0"),
        ("output.dense", "mlp.2"),
    ):
        state |= _both(tensors, f"{theirs}.{name}", f"{ours}.{kept}")
    if divided:
        state |= _attention(config, tensors, f"{theirs}.temporal_attention", f"{ours}.time_attention")
        state |= _both(tensors, f"{theirs}.temporal_layernorm", f"{ours}.norm_time")
        state |= _both(tensors, f"{theirs}.temporal_dense", f"{ours}.time_out")
    return state


def _attention(config: FolderConfig, tensors: CheckpointTensors, theirs: str, ours: str) -> State:
    """Biases that a model does without are zeros here: VideoMAE's keys have none."""
    inner, zeros = f"{theirs}.attention", torch.zeros(config.hidden_size)
    state = _both(tensors, f"{theirs}.output.dense", f"{ours}.out")
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
