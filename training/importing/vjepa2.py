"""Implement V-JEPA 2 (Assran et al. 2025, arXiv 2506.09985) with its attentive pooler.

Every tubelet attends to every other tubelet of the window. Only the tubelet embedding depends on one chunk alone, so
it is the encoder, and all layers are the head.

Shapes: N windows or chunks, T chunks, P patches of one chunk, S = T P tokens, D width, K labels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from training.importing.config import VJepa2Config
from training.importing.learned_query import LearnedQueryPooling, convert_pooling
from training.importing.networks import ImportedEmbedding, ImportedModel
from training.importing.processor import ImageProcessor
from training.importing.state_dict import CheckpointTensors
from training.models.layers import Attention, Layer, attend, new_mlp, split_heads
from training.weights import State

POOLER_MLP_RATIO = 4.0


class RotaryAttention(Attention):
    """Self-attention with rotary positions of time, row and column: each rotates a third of a head's values."""

    def forward(self, x: Tensor, rotation: Tensor | None = None) -> Tensor:
        """Attend: (N, S, D) -> (N, S, D); `rotation` from `rotations`."""
        q = split_heads(self.q(x) * self.scale, self.heads)
        k, v = split_heads(self.k(x), self.heads), split_heads(self.v(x), self.heads)
        if rotation is not None:
            q, k = _rotate(q, rotation), _rotate(k, rotation)
        out: Tensor = self.out(attend(q, k, v).transpose(1, 2).flatten(2))
        return out


def _rotate(x: Tensor, rotation: Tensor) -> Tensor:
    """Rotate neighbouring pairs of the first R values: (N, heads, S, d) -> the same shape."""
    rotated = rotation.shape[-1]
    turned, rest = x[..., :rotated], x[..., rotated:]
    pairs = turned.reshape(*turned.shape[:-1], rotated // 2, 2)
    across = torch.stack([-pairs[..., 1], pairs[..., 0]], dim=-1).flatten(-2)
    return torch.cat([turned * rotation[0] + across * rotation[1], rest], dim=-1)


def rotations(*, chunks: int, rows: int, columns: int, head_dim: int) -> Tensor:
    """Return cosine and sine of the angles of all tokens: (2, S, R), with R at most `head_dim`.

    Angles repeat as in transformers: the frequencies of one axis follow each other twice, although the values that
    rotate together are neighbours.
    """
    part = 2 * (head_dim // 3 // 2)
    frequency = 10_000.0 ** -(torch.arange(part // 2, dtype=torch.float64) / max(part / 2, 1))
    axes = torch.meshgrid(*(torch.arange(size) for size in (chunks, rows, columns)), indexing="ij")
    angles = [(axis.flatten()[:, None] * frequency).repeat(1, 2) for axis in axes]
    angle = torch.cat(angles, dim=1)
    return torch.stack([angle.cos(), angle.sin()]).float()


class WholeWindowHead(nn.Module):
    """Classify embedded tubelets (N, T, P, D), oldest first, into logits (N, K)."""

    rotation: Tensor

    def __init__(self, config: VJepa2Config) -> None:
        super().__init__()
        dim, heads = config.hidden_size, config.num_attention_heads
        rows, columns = config.grid
        turns = rotations(chunks=config.chunks, rows=rows, columns=columns, head_dim=dim // heads)
        self.register_buffer("rotation", turns, persistent=False)
        self.layers = nn.ModuleList(
            _layer(config, RotaryAttention(dim=dim, heads=heads), int(dim * config.mlp_ratio))
            for _ in range(config.num_hidden_layers)
        )
        self.norm = nn.LayerNorm(dim, eps=config.layer_norm_eps)
        hidden = int(dim * POOLER_MLP_RATIO)
        self.pooler_layers = nn.ModuleList(
            _layer(config, Attention(dim=dim, heads=heads), hidden) for _ in range(config.num_pooler_layers)
        )
        self.norm1, self.norm2 = (nn.LayerNorm(dim, eps=config.layer_norm_eps) for _ in range(2))
        self.query = nn.Parameter(torch.zeros(1, dim))
        self.pool = LearnedQueryPooling(dim=dim, heads=heads, width=dim)
        self.mlp = new_mlp(dim=dim, hidden=hidden, gelu=config.gelu)
        self.classify = nn.Linear(dim, len(config.id2label))

    def forward(self, features: Tensor) -> Tensor:
        """Classify one window; serving runs this graph once per window."""
        x = features.flatten(1, 2)
        for layer in self.layers:
            x = layer(x, self.rotation)
        x = self.norm(x)
        for layer in self.pooler_layers:
            x = layer(x)
        pooled = self.query + self.pool(self.norm1(x))
        logits: Tensor = self.classify(pooled + self.mlp(self.norm2(pooled)))
        return logits


def _layer(config: VJepa2Config, attention: Attention, hidden: int) -> Layer:
    dim = config.hidden_size
    return Layer(attention, dim=dim, mlp_ratio=hidden / dim, eps=config.layer_norm_eps, gelu=config.gelu)


def build_vjepa2(config: VJepa2Config, processor: ImageProcessor) -> ImportedModel:
    """Build V-JEPA 2 with fresh weights."""
    frames, height, width = config.tubelet
    encoder = ImportedEmbedding(processor=processor, frames=frames, patch=(height, width), dim=config.hidden_size)
    return ImportedModel(encoder=encoder, head=WholeWindowHead(config))


def convert_vjepa2(config: VJepa2Config, tensors: CheckpointTensors) -> State:
    """Return the `state_dict` of V-JEPA 2. Raises `FolderError` for a missing tensor."""
    dim, heads = config.hidden_size, config.num_attention_heads
    tensors.drop("vjepa2.predictor.")  # it predicts masked tubelets in pretraining; the classifier does not read it
    state = tensors.patch_embedding("vjepa2.encoder.embeddings.patch_embeddings.proj", "encoder.project")
    for index in range(config.num_hidden_layers):
        theirs, ours = f"vjepa2.encoder.layer.{index}", f"head.layers.{index}"
        state |= _encoder_attention(config, tensors, f"{theirs}.attention", f"{ours}.attention")
        state |= _mlp_and_norms(tensors, theirs, ours, norm="norm")
    state |= tensors.renamed("vjepa2.encoder.layernorm", "head.norm")
    names = {"q_proj": "q", "k_proj": "k", "v_proj": "v", "out_proj": "out"}
    for index in range(config.num_pooler_layers):
        theirs, ours = f"pooler.self_attention_layers.{index}", f"head.pooler_layers.{index}"
        state |= tensors.projections(f"{theirs}.self_attn", f"{ours}.attention", names, dim)
        state |= _mlp_and_norms(tensors, theirs, ours, norm="layer_norm")
    query, values = tensors.pop("pooler.query_tokens", (1, 1, dim))[0], dim // heads
    scale = torch.full((values,), values**-0.5, dtype=torch.float64)
    cross = "pooler.cross_attention_layer"
    state |= {"head.query": query}
    state |= convert_pooling(tensors, f"{cross}.cross_attn", "head.pool", query=query[0], scale=scale, heads=heads)
    state |= _mlp_and_norms(tensors, cross, "head", norm="layer_norm")
    return state | tensors.renamed("classifier", "head.classify")


def _encoder_attention(config: VJepa2Config, tensors: CheckpointTensors, theirs: str, ours: str) -> State:
    """Rename the projections of one attention of the encoder."""
    names = {"query": "q", "key": "k", "value": "v"}
    state = tensors.projections(theirs, ours, names, config.hidden_size, bias=config.qkv_bias)
    return state | tensors.renamed(f"{theirs}.proj", f"{ours}.out")


def _mlp_and_norms(tensors: CheckpointTensors, theirs: str, ours: str, *, norm: str) -> State:
    """Rename the MLP and the two norms of one layer."""
    return (
        tensors.renamed(f"{theirs}.mlp.fc1", f"{ours}.mlp.0")
        | tensors.renamed(f"{theirs}.mlp.fc2", f"{ours}.mlp.2")
        | tensors.renamed(f"{theirs}.{norm}1", f"{ours}.norm1")
        | tensors.renamed(f"{theirs}.{norm}2", f"{ours}.norm2")
    )
