"""Implement learned position embeddings that store their grid, so that weights for another grid can be loaded.

Shapes: D width; a grid is (T, h, w), (h, w) or (T,).
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def resize_grid(table: Tensor, old: tuple[int, ...], new: tuple[int, ...]) -> Tensor:
    """Interpolate (1, prod(old), D) -> (1, prod(new), D): bicubic over space, linear over time (ViViT, section 3.4).

    If only the new grid has a time axis, the positions of the image are repeated for every chunk.
    """
    if old == new:
        return table
    if len(new) == len(old) + 1:
        old = (1, *old)
    dim = table.shape[-1]
    x = table.reshape(*old, dim).movedim(-1, 0)  # (D, *old)
    if len(old) in (2, 3):
        h, w = old[-2:]
        x = F.interpolate(x.reshape(1, -1, h, w), size=new[-2:], mode="bicubic", align_corners=False)
    if len(old) in (1, 3):
        x = x.reshape(dim, old[0], -1).transpose(1, 2)  # (D, h w, T)
        x = F.interpolate(x, size=new[0], mode="linear", align_corners=False).transpose(1, 2)
    return x.reshape(dim, -1).T[None].contiguous()


class Positions(nn.Module):
    """Learned position embeddings for the cells of a grid, and optionally a class token.

    The state holds the grid that the positions were learned on. Loading interpolates positions of another grid.
    """

    def __init__(self, *, grid: tuple[int, ...], dim: int, class_token: bool) -> None:
        super().__init__()
        self.shape = grid
        self.class_token = nn.Parameter(torch.randn(1, 1, dim) * 0.02) if class_token else None
        self.table = nn.Parameter(torch.randn(1, int(class_token) + math.prod(grid), dim) * 0.02)
        self.register_buffer("grid", torch.tensor(grid, dtype=torch.int32))

    def forward(self, x: Tensor) -> Tensor:
        """Add positions: (N, S, D) -> (N, S, D), or (N, 1 + S, D) with a class token in front."""
        if self.class_token is None:
            return x + self.table
        first = (self.class_token + self.table[:, :1]).expand(x.shape[0], -1, -1)
        return torch.cat([first, x + self.table[:, 1:]], dim=1)

    def start_from(self, table: Tensor, grid: tuple[int, ...], class_token: Tensor | None) -> None:
        """Copy positions (1, [1 +] prod(grid), D) learned on another grid, and a class token (1, 1, D)."""
        with torch.no_grad():
            self.table.copy_(self._resized(table, grid))
            if self.class_token is not None and class_token is not None:
                self.class_token.copy_(class_token)

    def _resized(self, table: Tensor, grid: tuple[int, ...]) -> Tensor:
        """Interpolate a table from any grid, with or without a class token, to this one."""
        extra = table.shape[1] - math.prod(grid)
        if extra not in (0, 1):
            raise ValueError(
                f"{table.shape[1]} positions: grid {grid} has {math.prod(grid)}, or one more with a class token"
            )
        first, rest = table[:, :extra], resize_grid(table[:, extra:], grid, self.shape)
        if self.class_token is None:
            return rest
        return torch.cat([first if extra else self.table[:, :1].detach().to(rest), rest], dim=1)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        grid, table = state_dict.get(prefix + "grid"), state_dict.get(prefix + "table")
        if grid is not None and table is not None:
            old = tuple(int(size) for size in grid.flatten().tolist())
            whole = table.ndim == 3 and table.shape[1] - math.prod(old) in (0, 1)
            # A table that does not match its own grid stays as it is; PyTorch then reports the size mismatch.
            if old != self.shape and len(old) == len(self.shape) and min(old) > 0 and whole:
                state_dict[prefix + "table"] = self._resized(table, old)
                state_dict[prefix + "grid"] = torch.tensor(self.shape, dtype=torch.int32)
        super()._load_from_state_dict(state_dict, prefix, *args)
