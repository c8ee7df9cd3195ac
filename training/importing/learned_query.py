"""Pool tokens by attention with a learned query, as VideoPrism and V-JEPA 2 do before their classifier.

Shapes: N windows, S tokens, D width, H heads of d values each.
"""

from __future__ import annotations

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
        # One matrix per head, as a grouped convolution: INT8 quantisation fails on a product with a 3D constant.
        self.value = nn.Conv2d(heads * dim, width, 1, groups=heads)

    def forward(self, x: Tensor) -> Tensor:
        """Pool each window's tokens."""
        weights = self.score(x).transpose(1, 2).softmax(dim=-1)  # (N, H, S)
        mixed = (weights @ x).flatten(1)  # (N, H D)
        values: Tensor = self.value(mixed[:, :, None, None])
        return values.flatten(1)


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
    keys = weights["k"].reshape(heads, -1, dim)
    return {
        f"{ours}.score.weight": (scaled[:, None] @ keys)[:, 0].float(),
        f"{ours}.value.weight": weights["v"].float()[:, :, None, None],
        f"{ours}.value.bias": biases["v"],
    }
