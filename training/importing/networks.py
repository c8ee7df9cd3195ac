"""Implement the imported networks: the encoder embeds one chunk's frames, the head is the transformer.

Shapes: N windows or chunks, T chunks of t frames, P patches of one chunk, D width, K labels.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from training.importing.config import WindowAttentionConfig
from training.importing.processor import ImageProcessor
from training.models.base import ClipModel
from training.models.input_pixels import PixelInput
from training.models.layers import Attention, Gelu, Layer, new_mlp


class ImportedEmbedding(nn.Module):
    """Crop and normalise frames (N, t, H, W, 3) uint8 RGB as the image processor does, and embed them: (N, P, D)."""

    def __init__(self, *, processor: ImageProcessor, frames: int, patch: tuple[int, int], dim: int) -> None:
        super().__init__()
        height, width = processor.crop
        self.top, self.left = (processor.height - height) // 2, (processor.width - width) // 2
        self.height, self.width = height, width
        self.pixels = PixelInput(frames=frames, mean=processor.mean, std=processor.std)
        self.project = nn.Conv2d(frames * 3, dim, patch, stride=patch)

    def forward(self, frames: Tensor) -> Tensor:
        """Embed all patches of one chunk, row by row."""
        frames = frames[:, :, self.top : self.top + self.height, self.left : self.left + self.width]
        embedded: Tensor = self.project(self.pixels(frames).flatten(1, 2))
        return embedded.flatten(2).transpose(1, 2)


class JointAttentionHead(nn.Module):
    """Classify embedded tubelets (N, T, P, D), oldest first, into logits (N, K) with joint attention over all.

    `pool`: `first` classifies the normalised first token, `mean` the normalised mean of all tokens.
    """

    def __init__(
        self,
        *,
        length: int,
        dim: int,
        heads: int,
        layers: int,
        hidden: int,
        eps: float,
        gelu: Gelu,
        class_token: bool,
        pool: Literal["first", "mean"],
        labels: int,
    ) -> None:
        super().__init__()
        self.class_token = nn.Parameter(torch.zeros(1, 1, dim)) if class_token else None
        self.positions = nn.Parameter(torch.zeros(1, int(class_token) + length, dim))
        self.pool = pool
        self.layers = nn.ModuleList(
            Layer(
                Attention(dim=dim, heads=heads, class_only=pool == "first" and index == layers - 1),
                dim=dim,
                mlp_ratio=hidden / dim,
                eps=eps,
                gelu=gelu,
            )
            for index in range(layers)
        )
        # transformers gives VideoMAE's norm of the mean (fc_norm) no eps, so it has PyTorch's default
        self.norm = nn.LayerNorm(dim, eps=eps) if pool == "first" else nn.LayerNorm(dim)
        self.classify = nn.Linear(dim, labels)

    def forward(self, features: Tensor) -> Tensor:
        """Classify one window; serving runs this graph once per window."""
        x = features.flatten(1, 2)
        if self.class_token is None:
            x = x + self.positions
        else:
            first = (self.class_token + self.positions[:, :1]).expand(x.shape[0], -1, -1)
            x = torch.cat([first, x + self.positions[:, 1:]], dim=1)
        for layer in self.layers:
            x = layer(x)
        pooled = self.norm(x)[:, 0] if self.pool == "first" else self.norm(x.mean(dim=1))
        logits: Tensor = self.classify(pooled)
        return logits


class DividedLayer(nn.Module):
    """A layer with TimeSformer's divided attention (Bertasius et al. 2021, section 3): time, space, then the MLP.

    Shapes: class token (N, 1, D) and patches (N, T, P, D) -> the same shapes. With `class_only` the layer computes the
    class token alone, which is exact in the last layer.
    """

    def __init__(self, *, dim: int, heads: int, hidden: int, eps: float, gelu: Gelu, class_only: bool) -> None:
        super().__init__()
        self.class_only = class_only
        self.norm_time, self.norm1, self.norm2 = (nn.LayerNorm(dim, eps=eps) for _ in range(3))
        self.time_attention = Attention(dim=dim, heads=heads)
        self.time_out = nn.Linear(dim, dim)
        self.attention = Attention(dim=dim, heads=heads, class_only=class_only)
        self.mlp = new_mlp(dim=dim, hidden=hidden, gelu=gelu)

    def forward(self, token: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Attend over time without the class token, then over space with a copy of it per chunk; average the copies."""
        _, chunks, patches, dim = x.shape
        along = self.norm_time(x).transpose(1, 2).reshape(-1, chunks, dim)
        along = self.time_attention(along).reshape(-1, patches, chunks, dim).transpose(1, 2)
        x = x + self.time_out(along)
        copies = token[:, None].repeat(1, chunks, 1, 1)  # (N, T, 1, D)
        inside = self.norm1(torch.cat([copies, x], dim=2)).reshape(-1, 1 + patches, dim)
        inside = self.attention(inside).reshape(-1, chunks, 1 if self.class_only else 1 + patches, dim)
        token = token + inside[:, :, 0].mean(dim=1, keepdim=True)
        token = token + self.mlp(self.norm2(token))
        if not self.class_only:
            x = x + inside[:, :, 1:]
            x = x + self.mlp(self.norm2(x))
        return token, x


class DividedAttentionHead(nn.Module):
    """Classify embedded patches (N, T, P, D), oldest first, into logits (N, K) with divided attention."""

    def __init__(
        self,
        *,
        chunks: int,
        patches: int,
        dim: int,
        heads: int,
        layers: int,
        hidden: int,
        eps: float,
        gelu: Gelu,
        labels: int,
    ) -> None:
        super().__init__()
        self.class_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.positions = nn.Parameter(torch.zeros(1, 1 + chunks * patches, dim))
        self.layers = nn.ModuleList(
            DividedLayer(dim=dim, heads=heads, hidden=hidden, eps=eps, gelu=gelu, class_only=index == layers - 1)
            for index in range(layers)
        )
        self.norm = nn.LayerNorm(dim, eps=eps)
        self.classify = nn.Linear(dim, labels)

    def forward(self, features: Tensor) -> Tensor:
        """Classify one window; serving runs this graph once per window."""
        token = (self.class_token + self.positions[:, :1]).expand(features.shape[0], -1, -1)
        x = features + self.positions[:, 1:].reshape(1, *features.shape[1:])
        for layer in self.layers:
            token, x = layer(token, x)
        logits: Tensor = self.classify(self.norm(token)[:, 0])
        return logits


class ImportedModel(ClipModel):
    """An imported network, as an encoder and a head."""

    def __init__(self, *, encoder: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.encoder, self.head = encoder, head


def build_window_attention(config: WindowAttentionConfig, processor: ImageProcessor) -> ImportedModel:
    """Build ViViT, VideoMAE or TimeSformer with fresh weights."""
    dim, (frames, *patch) = config.hidden_size, config.tubelet
    encoder = ImportedEmbedding(processor=processor, frames=frames, patch=(patch[0], patch[1]), dim=dim)
    head: JointAttentionHead | DividedAttentionHead
    if config.model_type == "timesformer" and config.attention_type == "divided_space_time":
        head = DividedAttentionHead(
            chunks=config.chunks,
            patches=config.patches,
            dim=dim,
            heads=config.num_attention_heads,
            layers=config.num_hidden_layers,
            hidden=config.intermediate_size,
            eps=config.layer_norm_eps,
            gelu=config.gelu,
            labels=len(config.id2label),
        )
    else:
        mean = config.model_type == "videomae" and config.use_mean_pooling
        head = JointAttentionHead(
            length=config.chunks * config.patches,
            dim=dim,
            heads=config.num_attention_heads,
            layers=config.num_hidden_layers,
            hidden=config.intermediate_size,
            eps=config.layer_norm_eps,
            gelu=config.gelu,
            class_token=config.model_type != "videomae",
            pool="mean" if mean else "first",
            labels=len(config.id2label),
        )
    return ImportedModel(encoder=encoder, head=head)
