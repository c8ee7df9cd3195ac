"""Implement a compact ViViT factorised encoder (Arnab et al. 2021, section 3.3.2, "model 2").

A window has T chunks of t frames. `encoder` is the spatial transformer: it turns one chunk's frames into one feature.
`head` is the temporal transformer: it turns the window's features into logits. The encoder reads nothing outside its
chunk, so a feature that is computed once serves every window that contains the chunk.

Compared with `training.models.vivit.factorised_encoder`: the patch embedding is a tree of small convolutions, training
can leave out patches, and the head can read the differences between neighbouring chunks.

Shapes: N windows or chunks, T chunks, t frames per chunk, P patches of p x p pixels, D width, K labels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from training.models.base import BaseModelRecipe, ClipModel
from training.models.layers import ClassStack

# Pixels are 0..255. The frames' mean is centred and scaled to about unit variance. Differences between frames, which
# show motion, are an order of magnitude smaller, so they are scaled up.
_MEAN_CENTRE, _MEAN_SCALE, _DIFFERENCE_SCALE = 127.5, 64.0, 16.0


class VivitFactorisedRecipe(BaseModelRecipe):
    """The recipe keys of `FactorisedViViT`."""

    kind: Literal["vivit_factorised"] = "vivit_factorised"
    patch: int = Field(16, ge=1, description="pixels")
    stem: tuple[tuple[int, int], ...] = Field(
        (), description="(size, width) of each convolution before the patch embedding; empty: a linear embedding"
    )
    dim: int = Field(ge=8)
    heads: int = Field(ge=1)
    spatial_layers: int = Field(ge=1)
    temporal_layers: int = Field(ge=1)
    mlp_ratio: float = Field(4.0, gt=0)
    drop_path: float = Field(0.0, ge=0, lt=1)
    changes: bool = Field(False, description="the head also reads the differences between neighbouring chunks")

    def build(self, *, labels: int) -> ClipModel:
        """See `BaseModelRecipe`."""
        return FactorisedViViT(labels=labels, **self.model_dump(exclude={"kind"}))


class TubeletEmbedding(nn.Module):
    """Embed frames (N, t, H, W, 3) uint8 as tubelets (N, P, D), each of t x p x p voxels.

    First the tubelet changes basis: to the mean of its frames and the difference of each frame to the one before.
    This loses nothing and presents motion directly to a small network. Then a tree of convolutions that do not
    overlap embeds it (the hMLP stem of Touvron et al. 2022, section 5). Patches stay independent, so training can
    leave out any of them, and the first non-linearity acts on details of a few pixels.
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
        """Embed the patches with indices `keep` (P',), or all. Left-out patches cost nothing."""
        if torch.compiler.is_exporting():
            return self._convolve(frames).flatten(2).transpose(1, 2)
        n, t, height, width, _ = frames.shape
        p = self.patch
        tiles = frames.reshape(n, t, height // p, p, width // p, 3 * p).permute(0, 2, 4, 1, 3, 5).flatten(1, 2)
        if keep is not None:
            tiles = tiles.index_select(1, keep.to(tiles.device))  # on a CPU, tiles[:, keep] takes three times as long
        return self._multiply(tiles.flatten(0, 1)).reshape(n, tiles.shape[1], -1)

    def _convolve(self, frames: Tensor) -> Tensor:
        """Change basis, then convolve, as the exported graph does: (N, t, h, w, 3) uint8 -> (N, D, h/p, w/p)."""
        x = frames.to(torch.float32).permute(0, 1, 4, 2, 3)  # (N, t, 3, h, w)
        mean = (x.sum(dim=1) / x.shape[1] - _MEAN_CENTRE) / _MEAN_SCALE
        change = (x[:, 1:] - x[:, :-1]).flatten(1, 2) / _DIFFERENCE_SCALE
        embedded: Tensor = self.tree(torch.cat([mean, change], dim=1))
        return embedded

    def _multiply(self, tiles: Tensor) -> Tensor:
        """Compute what `_convolve` does for M patches, as matrix products, (M, t, p, 3 p) uint8 -> (M, D).

        For training on a CPU, this costs a third: the gradient of convolutions that do not overlap is slow.
        """
        convolutions = [layer for layer in self.tree if isinstance(layer, nn.Conv2d)]
        sizes = [layer.stride[0] for layer in reversed(convolutions)]
        m, t, levels = *tiles.shape[:2], len(sizes)
        kind = tiles.device.type
        is_reduced = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)  # "meta" has no autocast
        x = tiles.to(torch.get_autocast_dtype(kind) if is_reduced else torch.float32)
        # The first layer's weights do the rest of the change of basis. Two steps stay here: each later frame minus the
        # first one, and the centre. Both are exact in 8 significant bits. Without them, rounded weights and gradients
        # would lose small changes between two bright frames.
        x[:, 1:] -= x[:, :1]
        x[:, 0] -= _MEAN_CENTRE
        # An axis for the rows and one for the columns of each convolution, the last one outermost.
        outer = [axis for i in range(2, levels + 1) for axis in (i, i + levels)]
        x = x.reshape(m, t, *sizes, *sizes[:-1], 3 * sizes[-1])
        x = x.permute(0, *outer, 1, levels + 1, 2 * levels + 1).flatten(-3)  # (..., t s 3 s)
        for i, layer in enumerate(convolutions):
            weight = layer.weight.permute(0, 2, 3, 1)  # inputs have channels last
            if i == 0:
                weight = self._weight_of_frames(
                    layer.weight.reshape(-1, t, 3, *layer.kernel_size).permute(0, 1, 3, 4, 2)
                )
            x = F.linear(x, weight.flatten(1), layer.bias)
            if layer is not convolutions[-1]:
                x = F.gelu(x).flatten(-3)
        return x

    @staticmethod
    def _weight_of_frames(weight: Tensor) -> Tensor:
        """Turn weights (O, t, ...) of the mean and the t - 1 changes into those of the first frame and each minus it.

        With d[i] = frame i - frame 0, the mean is frame 0 + sum(d) / t, and change i is d[i] - d[i - 1].
        """
        mean, change = weight[:, :1] / _MEAN_SCALE, weight[:, 1:] / _DIFFERENCE_SCALE
        later = mean / weight.shape[1] + change
        later[:, :-1] -= change[:, 1:]
        return torch.cat([mean, later], dim=1)


class CompactViViTEncoder(nn.Module):
    """Encode one chunk's frames (N, t, H, W, 3) uint8 RGB into a feature (N, D)."""

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
        """Encode one chunk from the patches with indices `keep` (P',); serving uses all patches."""
        feature: Tensor = self.stack(self.embedding(frames, keep), keep)
        return feature


class ChunkDifferences(nn.Module):
    """Describe how each chunk's feature differs from the one before: (N, T, D) -> (N, T, D).

    An event between two chunks, such as a knock against the camera or a switched light, is in neither of their
    features. Attention learns to find it slowly; the difference of neighbours shows it directly.
    """

    def __init__(self, *, dim: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(2 * dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))

    def forward(self, features: Tensor) -> Tensor:
        """Return the differences; the first chunk has no predecessor, so it is compared with itself."""
        before = torch.cat([features[:, :1], features[:, :-1]], dim=1)
        change: Tensor = self.mlp(torch.cat([features, features - before], dim=2))
        return change


class CompactViViTHead(nn.Module):
    """Classify the features of one window (N, T, D), oldest first, into logits (N, K)."""

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
        """Classify one window; serving runs this graph once per window."""
        return self.with_differences(features)[0]

    def with_differences(self, features: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return logits (N, K) and the chunk differences (N, T, D); None where the recipe sets `changes: false`."""
        changes = None if self.changes is None else self.changes(features)
        logits: Tensor = self.classify(self.stack(features if changes is None else features + changes))
        return logits, changes


class FactorisedViViT(ClipModel):
    """A spatial and a temporal transformer; `VivitFactorisedRecipe` describes each argument."""

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
        """Encode every chunk of every window: (N, T, t, H, W, 3) -> (N, T, D); `keep` as in the encoder."""
        feature: Tensor = self.encoder(frames.flatten(0, 1), keep)
        return feature.reshape(frames.shape[0], frames.shape[1], *feature.shape[1:])
