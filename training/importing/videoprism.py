"""Implement VideoPrism (Zhao et al. 2024, arXiv 2402.13217), which splits exactly into an encoder and a head.

Its spatial layers attend within one frame and its temporal layers among the frames at one patch (ViViT's factorised
encoder that keeps all patches). So the spatial layers are the encoder, and a chunk is one frame.

Shapes: N windows or chunks, T chunks of one frame, P patches of one frame, D width, K labels.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.errors import FolderError
from training.importing.config import Pair, VideoPrismConfig
from training.importing.learned_query import LearnedQueryPooling, convert_pooling
from training.importing.networks import ImportedEmbedding, ImportedModel
from training.importing.processor import ImageProcessor
from training.importing.state_dict import CheckpointTensors
from training.models.layers import Attention, Layer, split_heads
from training.weights import State

_R_SOFTPLUS_0 = 1.442695041
"""1 / softplus(0): the pooling query's scale per dimension is 1 where its parameter is 0."""


class CappedAttention(Attention):
    """Self-attention whose scores are limited smoothly to -cap..cap, by cap tanh(score / cap)."""

    def __init__(self, *, dim: int, heads: int, cap: float) -> None:
        super().__init__(dim=dim, heads=heads)
        self.cap = cap

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attend: (N, S, D) -> (N, S, D); `mask` (S, S) is True where a token may attend to another."""
        q = split_heads(self.q(x) * (self.scale / self.cap), self.heads)
        k, v = split_heads(self.k(x), self.heads), split_heads(self.v(x), self.heads)
        scores = (q @ k.transpose(-2, -1)).tanh() * self.cap
        if mask is not None:
            scores = scores.masked_fill(~mask, float("-inf"))
        mixed = scores.softmax(dim=-1) @ v
        out: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return out


def _layers(config: VideoPrismConfig, count: int) -> nn.ModuleList:
    dim = config.hidden_size
    return nn.ModuleList(
        Layer(
            CappedAttention(dim=dim, heads=config.num_attention_heads, cap=config.attn_logit_softcapping),
            dim=dim,
            mlp_ratio=config.intermediate_size / dim,
            eps=config.layer_norm_eps,
            gelu=config.gelu,
        )
        for _ in range(count)
    )


class SpatialEncoder(nn.Module):
    """Encode one frame (N, 1, H, W, 3) uint8 RGB into a feature of all its patches (N, P, D)."""

    def __init__(self, config: VideoPrismConfig, processor: ImageProcessor) -> None:
        super().__init__()
        frames, height, width = config.tubelet
        self.embed = ImportedEmbedding(
            processor=processor, frames=frames, patch=(height, width), dim=config.hidden_size
        )
        self.positions = nn.Parameter(torch.zeros(1, config.patches, config.hidden_size))
        self.layers = _layers(config, config.num_spatial_layers)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, frames: Tensor) -> Tensor:
        """Encode one frame; serving runs this graph once per frame."""
        x = self.embed(frames) + self.positions
        for layer in self.layers:
            x = layer(x)
        out: Tensor = self.norm(x)
        return out


class TemporalHead(nn.Module):
    """Classify the frames' features (N, T, P, D), oldest first, into logits (N, K).

    `classify` maps the window's embedding (N, D) to logits. `auxiliary` is the number of layers in which all tokens of
    the window attend to each other; the models with a text tower have them.
    """

    def __init__(self, config: VideoPrismConfig, classify: nn.Module, *, auxiliary: int = 0) -> None:
        super().__init__()
        dim, heads, eps = config.hidden_size, config.num_attention_heads, config.layer_norm_eps
        self.positions = nn.Parameter(torch.zeros(1, config.chunks, dim))
        self.layers = _layers(config, config.num_temporal_layers)
        self.norm = nn.LayerNorm(dim, eps=eps)
        self.auxiliary = _layers(config, auxiliary)
        width = config.intermediate_size // heads * heads
        self.pool = LearnedQueryPooling(dim=dim, heads=heads, width=width)
        self.out = nn.Linear(width, dim)
        self.norm_pooled = nn.LayerNorm(dim, eps=eps)
        self.classify = classify

    def forward(self, features: Tensor) -> Tensor:
        """Classify one window; serving runs this graph once per window."""
        _, chunks, patches, dim = features.shape
        x = features.transpose(1, 2).reshape(-1, chunks, dim) + self.positions  # (N P, T, D)
        for layer in self.layers:
            x = layer(x)
        tokens = self.norm(x).reshape(-1, patches * chunks, dim)  # the rest does not depend on the order of tokens
        for layer in self.auxiliary:
            tokens = layer(tokens)
        logits: Tensor = self.classify(self.norm_pooled(self.out(self.pool(tokens))))
        return logits


def build_videoprism(config: VideoPrismConfig, processor: ImageProcessor) -> ImportedModel:
    """Build VideoPrism with fresh weights."""
    head = TemporalHead(config, nn.Linear(config.hidden_size, len(config.id2label)))
    return ImportedModel(encoder=SpatialEncoder(config, processor), head=head)


def convert_videoprism(config: VideoPrismConfig, tensors: CheckpointTensors, *, interpolate: bool) -> State:
    """Return the `state_dict` of VideoPrism with a classifier. Raises `FolderError` for a missing tensor.

    `interpolate`: see `convert_video_tower`.
    """
    state = convert_video_tower(config, tensors, norm="head_layernorm", interpolate=interpolate)
    return state | tensors.renamed("classifier", "head.classify")


def convert_video_tower(
    config: VideoPrismConfig, tensors: CheckpointTensors, *, norm: str, auxiliary: int = 0, interpolate: bool
) -> State:
    """Return the `state_dict` of VideoPrism without `head.classify`. Raises `FolderError` for a missing tensor.

    `norm` is the checkpoint's name for the norm of the pooled embedding, `auxiliary` as in `TemporalHead`. With
    `interpolate`, positions of another size or number of frames are interpolated to those of `config`.
    """
    spatial, temporal = "vision_model.spatial_embeddings", "vision_model.temporal_embeddings"
    state = tensors.patch_embedding(f"{spatial}.patch_embeddings.projection", "encoder.embed.project")
    in_space = tensors.pop(f"{spatial}.position_embeddings")
    in_time = tensors.pop(f"{temporal}.position_embeddings")
    if interpolate:
        in_space = _resize_space(in_space, config.grid, tensors.where)
        in_time = _resize_time(in_time, config.chunks)
    state |= {"encoder.positions": in_space, "head.positions": in_time}
    for half, name, count in (
        ("encoder", "spatial_layers", config.num_spatial_layers),
        ("head", "temporal_layers", config.num_temporal_layers),
    ):
        for index in range(count):
            state |= convert_layer(tensors, f"vision_model.{name}.{index}", f"{half}.layers.{index}", config)
    for index in range(auxiliary):
        state |= convert_layer(tensors, f"auxiliary_layers.{index}", f"head.auxiliary.{index}", config)
    state |= convert_norm(tensors, "vision_model.layernorm1", "encoder.norm")
    state |= convert_norm(tensors, "vision_model.layernorm2", "head.norm")
    dim, heads = config.hidden_size, config.num_attention_heads
    query = tensors.pop("head.pooling_attention_query", (1, 1, dim)).flatten()
    values = config.intermediate_size // heads
    per_dim = F.softplus(tensors.pop("head.per_dim_scale", (values,)).double())
    scale = per_dim * _R_SOFTPLUS_0 / math.sqrt(values)
    state |= convert_pooling(tensors, "head", "head.pool", query=query, scale=scale, heads=heads, bias=config.qkv_bias)
    state |= tensors.renamed("head.o_proj", "head.out")
    return state | convert_norm(tensors, norm, "head.norm_pooled")


def convert_norm(tensors: CheckpointTensors, theirs: str, ours: str) -> State:
    """Rename a norm; VideoPrism stores its weight minus 1."""
    state = tensors.renamed(theirs, ours)
    state[f"{ours}.weight"] = state[f"{ours}.weight"] + 1
    return state


class _LayerSizes(Protocol):
    @property
    def hidden_size(self) -> int: ...
    @property
    def qkv_bias(self) -> bool: ...


def convert_layer(tensors: CheckpointTensors, theirs: str, ours: str, config: _LayerSizes) -> State:
    """Rename the tensors of one transformer layer of VideoPrism, also of its text tower."""
    names = {"q_proj": "q", "k_proj": "k", "v_proj": "v"}
    state = tensors.projections(
        f"{theirs}.attention", f"{ours}.attention", names, config.hidden_size, bias=config.qkv_bias
    )
    state |= tensors.renamed(f"{theirs}.attention.o_proj", f"{ours}.attention.out")
    state |= convert_norm(tensors, f"{theirs}.layernorm_before", f"{ours}.norm1")
    state |= convert_norm(tensors, f"{theirs}.layernorm_after", f"{ours}.norm2")
    return (
        state
        | tensors.renamed(f"{theirs}.mlp.fc1", f"{ours}.mlp.0")
        | tensors.renamed(f"{theirs}.mlp.fc2", f"{ours}.mlp.2")
    )


def _resize_space(table: Tensor, grid: Pair, where: str) -> Tensor:
    """Interpolate positions (1, P, D) of a square grid as transformers does with `interpolate_pos_encoding`."""
    if table.ndim != 3 or table.shape[1] == math.prod(grid):
        return table  # the caller compares shapes
    count, dim = table.shape[1:]
    side = math.isqrt(count)
    if side * side != count:
        raise FolderError(f"{where}: {count} positions are no square grid, so they cannot be interpolated to {grid}")
    square = table.reshape(1, side, side, dim).permute(0, 3, 1, 2)
    resized = F.interpolate(square, size=grid, mode="bilinear", antialias=True)
    return resized.permute(0, 2, 3, 1).reshape(1, -1, dim)


def _resize_time(table: Tensor, chunks: int) -> Tensor:
    """Interpolate positions (1, T, D) as transformers does with `interpolate_pos_encoding`."""
    if table.ndim != 3 or table.shape[1] == chunks:
        return table
    return F.interpolate(table[:, None], size=(chunks, table.shape[2]), mode="bilinear", antialias=True)[:, 0]
