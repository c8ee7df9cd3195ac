"""ViViT's factorised encoder (Arnab et al. 2021, section 3.3.2, "model 2"), split where serving splits it.

A window of T chunks, each t frames. `encoder` is the spatial transformer: one chunk's frames to one feature.
`head` is the temporal transformer: the window's features to logits. Neither sees what the other holds, so a
feature computed once serves every window that contains its frames.

Shapes: N windows or chunks, T chunks, t frames per chunk, P patches of p x p pixels, D width, K labels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from training.models.base import BaseModelRecipe, ClipModel
from training.models.layers import ClassStack

# Pixels come as 0..255. Sums are centred and brought to about unit variance; differences between frames are
# an order of magnitude smaller, and are what tells motion, so they are amplified.
_MEAN_CENTRE, _MEAN_SCALE, _DIFFERENCE_SCALE = 127.5, 64.0, 16.0


class VivitFactorisedRecipe(BaseModelRecipe):
    """The words of `FactorisedViViT`."""

    kind: Literal["vivit_factorised"] = "vivit_factorised"
    patch: int = Field(16, ge=1, description="pixels")
    stem: tuple[tuple[int, int], ...] = Field((), description="(size, width) of the tree under a patch; none is linear")
    dim: int = Field(ge=8)
    heads: int = Field(ge=1)
    spatial_layers: int = Field(ge=1)
    temporal_layers: int = Field(ge=1)
    mlp_ratio: float = Field(4.0, gt=0)
    drop_path: float = Field(0.0, ge=0, lt=1)
    changes: bool = Field(False, description="the head also reads what changed from chunk to chunk")

    def build(self, *, labels: int) -> ClipModel:
        """See `BaseModelRecipe`."""
        return FactorisedViViT(labels=labels, **self.model_dump(exclude={"kind"}))


class TubeletEmbedding(nn.Module):
    """Frames (N, t, H, W, 3) uint8 -> embedded tubelets (N, P, D), each of t x p x p voxels.

    The tubelet is first written in another basis: the mean of its frames, and the difference of each frame to
    the one before it. That loses nothing, and puts motion where a small network finds it. It is then embedded
    by a tree of convolutions that do not overlap (the hMLP stem of Touvron et al. 2022, section 5): patches
    stay independent, so any of them can be left out, and a non-linearity sees detail of a few pixels.
    """

    def __init__(self, *, frames: int, patch: int, dim: int, stem: Sequence[tuple[int, int]]) -> None:
        super().__init__()
        covered = math.prod(size for size, _ in stem)
        if patch % max(covered, 1) or covered > patch:
            raise ValueError(f"stem={list(stem)}: its sizes multiply to {covered}, which must divide patch={patch}")
        self.patch = patch
        layers: list[nn.Module] = []
        channels = frames * 3
        for size, width in stem:
            layers += [nn.Conv2d(channels, width, size, stride=size), nn.GELU()]
            channels = width
        rest = patch // covered
        layers.append(nn.Conv2d(channels, dim, rest, stride=rest))
        self.tree = nn.Sequential(*layers)

    def forward(self, frames: Tensor, keep: Tensor | None = None) -> Tensor:
        """`keep`: (P',) indices of the patches to embed; the others cost nothing."""
        n, t, height, width, _ = frames.shape
        if keep is not None:
            p = self.patch
            tiles = frames.reshape(n, t, height // p, p, width // p, p, 3).permute(0, 2, 4, 1, 3, 5, 6)
            tiles = tiles.reshape(n, -1, t, p, p, 3)[:, keep]  # (N, P', t, p, p, 3), still bytes
            return self._embed(tiles.flatten(0, 1)).reshape(n, keep.numel(), -1)
        return self._embed(frames).flatten(2).transpose(1, 2)

    def _embed(self, frames: Tensor) -> Tensor:
        """(N, t, h, w, 3) uint8 -> (N, D, h/p, w/p)."""
        x = frames.to(torch.float32).permute(0, 1, 4, 2, 3)  # (N, t, 3, h, w)
        mean = (x.sum(dim=1) / x.shape[1] - _MEAN_CENTRE) / _MEAN_SCALE
        change = (x[:, 1:] - x[:, :-1]).flatten(1, 2) / _DIFFERENCE_SCALE
        embedded: Tensor = self.tree(torch.cat([mean, change], dim=1))
        return embedded


class CompactViViTEncoder(nn.Module):
    """One chunk's frames (N, t, H, W, 3) uint8 RGB -> feature (N, D)."""

    def __init__(
        self,
        *,
        height: int,
        width: int,
        frames_per_chunk: int,
        patch: int,
        stem: Sequence[tuple[int, int]],
        dim: int,
        heads: int,
        layers: int,
        mlp_ratio: float,
        drop_path: float,
    ) -> None:
        super().__init__()
        for name, size in (("height", height), ("width", width)):
            if size % patch:
                raise ValueError(f"{name}={size}: must be a multiple of patch={patch}")
        if dim % heads:
            raise ValueError(f"dim={dim}: must be a multiple of heads={heads}")
        self.patches = (height // patch) * (width // patch)
        self.embedding = TubeletEmbedding(frames=frames_per_chunk, patch=patch, dim=dim, stem=stem)
        self.stack = ClassStack(
            tokens=self.patches, dim=dim, heads=heads, layers=layers, mlp_ratio=mlp_ratio, drop_path=drop_path
        )

    def forward(self, frames: Tensor, keep: Tensor | None = None) -> Tensor:
        """`keep`: (P',) indices of the patches to look at; in serving, all."""
        feature: Tensor = self.stack(self.embedding(frames, keep), keep)
        return feature


class ChunkDifferences(nn.Module):
    """Adds to each chunk's feature what changed since the chunk before: (N, T, D) -> (N, T, D).

    What happens between two chunks, a knock or a switched light, is in neither of their features. Attention
    finds it slowly; the difference of neighbours shows it at once.
    """

    def __init__(self, *, dim: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(2 * dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))

    def forward(self, features: Tensor) -> Tensor:
        """The first chunk has none before it: its change is zero."""
        before = torch.cat([features[:, :1], features[:, :-1]], dim=1)
        change: Tensor = self.mlp(torch.cat([features, features - before], dim=2))
        return change


class CompactViViTHead(nn.Module):
    """The features of one window (N, T, D), oldest first -> logits (N, K)."""

    def __init__(
        self,
        *,
        chunks: int,
        dim: int,
        heads: int,
        layers: int,
        mlp_ratio: float,
        drop_path: float,
        changes: bool,
        labels: int,
    ) -> None:
        super().__init__()
        self.changes = ChunkDifferences(dim=dim) if changes else None
        self.stack = ClassStack(
            tokens=chunks, dim=dim, heads=heads, layers=layers, mlp_ratio=mlp_ratio, drop_path=drop_path
        )
        self.classify = nn.Linear(dim, labels)

    def forward(self, features: Tensor) -> Tensor:
        """The graph that serving runs once per window."""
        return self.with_differences(features)[0]

    def with_differences(self, features: Tensor) -> tuple[Tensor, Tensor | None]:
        """Logits (N, K), and what changed from chunk to chunk (N, T, D), where the recipe says that it is read."""
        changes = None if self.changes is None else self.changes(features)
        logits: Tensor = self.classify(self.stack(features if changes is None else features + changes))
        return logits, changes


class FactorisedViViT(ClipModel):
    """The two transformers; its words are those of its recipe."""

    encoder: CompactViViTEncoder
    head: CompactViViTHead

    def __init__(
        self,
        *,
        labels: int,
        height: int,
        width: int,
        frames_per_chunk: int,
        chunks: int,
        patch: int = 16,
        stem: Sequence[tuple[int, int]] = (),
        dim: int = 192,
        heads: int = 3,
        spatial_layers: int = 12,
        temporal_layers: int = 4,
        mlp_ratio: float = 4.0,
        drop_path: float = 0.0,
        changes: bool = False,
    ) -> None:
        super().__init__()
        self.encoder = CompactViViTEncoder(
            height=height,
            width=width,
            frames_per_chunk=frames_per_chunk,
            patch=patch,
            stem=stem,
            dim=dim,
            heads=heads,
            layers=spatial_layers,
            mlp_ratio=mlp_ratio,
            drop_path=drop_path,
        )
        self.head = CompactViViTHead(
            chunks=chunks,
            dim=dim,
            heads=heads,
            layers=temporal_layers,
            mlp_ratio=mlp_ratio,
            drop_path=drop_path,
            changes=changes,
            labels=labels,
        )

    def features(self, frames: Tensor, keep: Tensor | None = None) -> Tensor:
        """Every chunk of every window: (N, T, t, H, W, 3) -> (N, T, D); `keep` as the encoder's."""
        feature: Tensor = self.encoder(frames.flatten(0, 1), keep)
        return feature.reshape(frames.shape[0], frames.shape[1], *feature.shape[1:])
