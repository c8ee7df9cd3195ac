"""Muon (Jordan et al. 2024): a step in which every direction of a weight matrix has the same size."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the Newton-Schulz iteration, from the paper: five iterations bring all singular values to about 1."""
_ITERATIONS = 5
_RMS = 0.2
"""Root mean square of an update at a learning rate of 1, as of AdamW (Liu et al. 2025, "Muon is scalable")."""


class Muon(torch.optim.AdamW):
    """Muon for the groups with `orthogonal: True`, which contain matrices only; AdamW for all others.

    Both take the same learning rate. Muon's groups have the momentum `momentum`.
    """

    def __init__(self, groups: list[dict[str, Any]], *, lr: float, betas: tuple[float, float], momentum: float) -> None:
        self._momentum = momentum
        super().__init__(groups, lr=lr, betas=betas)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Change all parameters that have a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        groups = [group for group in self.param_groups if group.get("orthogonal")]
        matrices = [(parameter, parameter.grad, group) for group in groups for parameter in group["params"]]
        for parameter, _, _ in matrices:
            parameter.grad = None  # AdamW leaves out parameters without a gradient
        super().step()
        alike: dict[torch.Size, list[tuple[Tensor, Tensor, dict[str, Any]]]] = defaultdict(list)
        for parameter, gradient, group in matrices:
            if gradient is not None:
                parameter.grad = gradient
                alike[parameter.shape].append((parameter, gradient, group))
        for shape, members in alike.items():
            directions = orthogonalise(torch.stack([self._direction(p, gradient) for p, gradient, _ in members]))
            for (parameter, _, group), direction in zip(members, directions, strict=True):
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(direction, alpha=-group["lr"] * _RMS * max(shape) ** 0.5)
        return loss

    def _direction(self, parameter: Tensor, gradient: Tensor) -> Tensor:
        """Update the running mean of a gradient, and return it one step ahead (Nesterov)."""
        state = self.state[parameter]
        if "momentum" not in state:
            state["step"] = torch.zeros(())  # AdamW expects it in each state that it loads
            state["momentum"] = torch.zeros_like(gradient)
        mean: Tensor = state["momentum"].lerp_(gradient, 1 - self._momentum)
        return gradient.lerp(mean, self._momentum)


def orthogonalise(matrices: Tensor) -> Tensor:
    """Bring all singular values of matrices (N, rows, columns) to about 1 (0.7 to 1.2).

    A GPU computes in bfloat16. A CPU computes in float32: without instructions for bfloat16, that takes a sixteenth of
    the time, and all processes of a run must compute the same weights.
    """
    wide = matrices.shape[1] <= matrices.shape[2]
    x = matrices if wide else matrices.mT
    x = (x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)).to(torch.bfloat16 if x.is_cuda else torch.float32)
    a, b, c = _COEFFICIENTS
    for _ in range(_ITERATIONS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    result: Tensor = (x if wide else x.mT).to(matrices.dtype)
    return result
