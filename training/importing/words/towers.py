"""Implement the image towers of CLIP, SigLIP and SigLIP 2, and the text towers of these models and of VideoPrism.

CLIP: Radford et al. 2021, arXiv 2103.00020. SigLIP: Zhai et al. 2023, arXiv 2303.15343. SigLIP 2: Tschannen et al.
2025, arXiv 2502.14786. An image tower is the bundle's encoder. A text tower runs during the import alone.

Shapes: N frames, windows or texts, T frames of a window, S tokens, D width, E width of the embeddings, K labels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.importing.learned_query import LearnedQueryPooling
from training.importing.networks import ImportedEmbedding
from training.importing.processor import ImageProcessor
from training.importing.videoprism import CappedAttention
from training.importing.words.config import ImageConfig, TextConfig, TowerConfig
from training.importing.words.layers import CosineClassifier, new_layer, new_mlp
from training.models.layers import Attention


def _layers(config: TowerConfig, *, class_only: bool = False) -> nn.ModuleList:
    """Create the layers; with `class_only` the last one computes the first token alone."""
    last = config.num_hidden_layers - 1
    return nn.ModuleList(
        new_layer(
            Attention(
                dim=config.hidden_size, heads=config.num_attention_heads, class_only=class_only and index == last
            ),
            dim=config.hidden_size,
            hidden=config.intermediate_size,
            eps=config.layer_norm_eps,
            activation=config.hidden_act,
        )
        for index in range(config.num_hidden_layers)
    )


def _embedding(config: ImageConfig, processor: ImageProcessor) -> ImportedEmbedding:
    patch = (config.patch_size, config.patch_size)
    return ImportedEmbedding(processor=processor, frames=1, patch=patch, dim=config.hidden_size)


class ClipImageTower(nn.Module):
    """Encode one frame (N, 1, H, W, 3) uint8 RGB as CLIP does, without the projection: (N, D)."""

    def __init__(self, config: ImageConfig, processor: ImageProcessor) -> None:
        super().__init__()
        dim, eps = config.hidden_size, config.layer_norm_eps
        self.embed = _embedding(config, processor)
        self.class_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.positions = nn.Parameter(torch.zeros(1, 1 + config.side**2, dim))
        self.norm_before, self.norm = nn.LayerNorm(dim, eps=eps), nn.LayerNorm(dim, eps=eps)
        self.layers = _layers(config, class_only=True)

    def forward(self, frames: Tensor) -> Tensor:
        """Encode one frame; serving runs this graph once per frame."""
        x = self.embed(frames)
        x = torch.cat([self.class_token.expand(x.shape[0], -1, -1), x], dim=1) + self.positions
        x = self.norm_before(x)
        for layer in self.layers:
            x = layer(x)
        out: Tensor = self.norm(x[:, 0])
        return out


class SiglipImageTower(nn.Module):
    """Encode one frame (N, 1, H, W, 3) uint8 RGB as SigLIP does, with its pooling by attention: (N, D)."""

    def __init__(self, config: ImageConfig, processor: ImageProcessor) -> None:
        super().__init__()
        dim, eps = config.hidden_size, config.layer_norm_eps
        self.embed = _embedding(config, processor)
        self.positions = nn.Parameter(torch.zeros(1, config.side**2, dim))
        self.layers = _layers(config)
        self.norm, self.norm_pooled = nn.LayerNorm(dim, eps=eps), nn.LayerNorm(dim, eps=eps)
        self.pool = LearnedQueryPooling(dim=dim, heads=config.num_attention_heads, width=dim)
        self.out = nn.Linear(dim, dim)
        self.mlp = new_mlp(dim=dim, hidden=config.intermediate_size, activation=config.hidden_act)

    def forward(self, frames: Tensor) -> Tensor:
        """Encode one frame; serving runs this graph once per frame."""
        x = self.embed(frames) + self.positions
        for layer in self.layers:
            x = layer(x)
        pooled = self.out(self.pool(self.norm(x)))
        out: Tensor = pooled + self.mlp(self.norm_pooled(pooled))
        return out


class FrameAverageHead(nn.Module):
    """Compare a window's frames (N, T, D) with K texts: logits (N, K).

    Project and normalise each frame's embedding, average them, and compare the average. Luo et al. 2021 (CLIP4Clip,
    arXiv 2104.08860) call this mean pooling. For one frame the logits are those of transformers.
    """

    def __init__(self, *, dim: int, embedding: int, project: bool, labels: int) -> None:
        super().__init__()
        self.project = nn.Linear(dim, embedding, bias=False) if project else nn.Identity()
        self.classify = CosineClassifier(dim=embedding, labels=labels)

    def forward(self, features: Tensor) -> Tensor:
        """Classify one window; serving runs this graph once per window."""
        frames = F.normalize(self.project(features), dim=-1)
        logits: Tensor = self.classify(frames.mean(dim=1))
        return logits


class _TextTower(nn.Module):
    """The layers of a text tower: token and position embeddings, transformer layers, and a projection."""

    def __init__(self, config: TextConfig, *, embedding: int, bias: bool) -> None:
        super().__init__()
        dim = config.hidden_size
        self.tokens = nn.Embedding(config.vocab_size, dim)
        self.positions = nn.Parameter(torch.zeros(1, config.max_position_embeddings, dim))
        self.layers = _layers(config)
        self.norm = nn.LayerNorm(dim, eps=config.layer_norm_eps)
        self.project = nn.Linear(dim, embedding, bias=bias)


class ClipTextTower(_TextTower):
    """Embed texts as CLIP does: token numbers (N, S) that end with the end token -> (N, E)."""

    def __init__(self, config: TextConfig, *, embedding: int) -> None:
        super().__init__(config, embedding=embedding, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the embedding of the last token, which has attended to all others."""
        count = tokens.shape[1]
        x = self.tokens(tokens) + self.positions[:, :count]
        mask = torch.ones(count, count, dtype=torch.bool).tril()
        for layer in self.layers:
            x = layer(x, mask)
        out: Tensor = self.project(self.norm(x[:, -1]))
        return out


class SiglipTextTower(_TextTower):
    """Embed texts as SigLIP does: padded token numbers (N, S) -> (N, E). Padding is not masked, as in training."""

    def __init__(self, config: TextConfig, *, embedding: int) -> None:
        super().__init__(config, embedding=embedding, bias=True)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the embedding of the last token, which may be padding."""
        x = self.tokens(tokens) + self.positions
        for layer in self.layers:
            x = layer(x)
        out: Tensor = self.project(self.norm(x[:, -1]))
        return out


class VideoPrismTextTower(nn.Module):
    """Embed texts as VideoPrism does: token numbers (N, S) without padding -> (N, D)."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        dim, heads = config.hidden_size, config.num_attention_heads
        self.tokens = nn.Embedding(config.vocab_size, dim)
        self.class_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.layers = nn.ModuleList(
            new_layer(
                CappedAttention(dim=dim, heads=heads, cap=config.attn_logit_softcapping),
                dim=dim,
                hidden=config.intermediate_size,
                eps=config.layer_norm_eps,
                activation=config.hidden_act,
            )
            for _ in range(config.num_hidden_layers)
        )
        self.norm = nn.LayerNorm(dim, eps=config.layer_norm_eps)
        self.scale = dim**0.5

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the embedding of the class token, which comes last and has no position."""
        x = self.tokens(tokens) * self.scale
        x = x + sinusoids(tokens.shape[1], x.shape[2])
        x = torch.cat([x, (self.class_token * self.scale).expand(x.shape[0], -1, -1)], dim=1)
        mask = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).tril()
        for layer in self.layers:
            x = layer(x, mask)
        out: Tensor = self.norm(x[:, -1])
        return out


def sinusoids(length: int, dim: int) -> Tensor:
    """Compute fixed positions (length, dim): sines, then cosines."""
    frequency = 1.0 / (10_000 ** (torch.arange(0, dim, 2) / dim))
    angle = torch.arange(length).float()[:, None] * frequency
    return torch.cat([angle.sin(), angle.cos()], dim=1)[:, :dim]
