"""Pool tokens by attention with a learned query, as VideoPrism and V-JEPA 2 do before their classifier.

Shapes: N windows, S tokens, D width, H heads of d values each.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from training.importing.state_dict import CheckpointTensors
from training.weights import State


class LearnedQueryPooling(nn.Module):
    """Attend to tokens (N, S, D) with one fixed query per head, and return the mixed values (N, H d).

    The query does not depend on the tokens. So its product with the key projection is one vector of D numbers per
    head, computed at import, and values are projected after they are mixed. The result is that of attention, but costs
    2 S D H multiply-adds instead of 2 S D H d.
    """

    def __init__(self, *, dim: int, heads: int, width: int) -> None:
        super().__init__()
        self.score = nn.Linear(dim, heads, bias=False)
        self.value = nn.Parameter(torch.zeros(heads, dim, width // heads))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        """Pool each window's tokens."""
        weights = self.score(x).transpose(1, 2).softmax(dim=-1)  # (N, H, S)
        mixed: Tensor = (weights @ x).unsqueeze(2) @ self.value  # (N, H, 1, d)
        return mixed.flatten(1) + self.bias


def convert_pooling(
    tensors: CheckpointTensors, theirs: str, ours: str, *, query: Tensor, scale: Tensor, heads: int, bias: bool = True
) -> State:
    """Convert the projections q, k and v of `theirs` to a `LearnedQueryPooling` named `ours`.

    `query` (D,) is the learned query before its projection; `scale` (d,) multiplies the projected query. The keys' bias
    adds the same number to all scores of a head, which softmax ignores.
    """
    dim, width = query.numel(), heads * scale.numel()
    weights = {name: tensors.pop(f"{theirs}.{name}_proj.weight", (width, dim)).double() for name in "qkv"}
    biases = {name: tensors.pop_bias(f"{theirs}.{name}_proj.bias", width, bias=bias) for name in "qkv"}
    projected = weights["q"] @ query.double() + biases["q"].double()
    scaled = projected.reshape(heads, -1) * scale.double()
    keys, values = (weights[name].reshape(heads, -1, dim) for name in "kv")
    return {
        f"{ours}.score.weight": (scaled[:, None] @ keys)[:, 0].float(),
        f"{ours}.value": values.transpose(1, 2).float().contiguous(),
        f"{ours}.bias": biases["v"],
    }
