"""Follow attention from a prediction back to the patches of a window: attention rollout (Abnar and Zuidema 2020).

Each layer passes on half of its input unchanged, by its residual connection, and half of it by attention, averaged over
heads. The product over all layers says how much of each patch reaches the classified token. Rows of attention sum to
1, so the shares of all patches do, too. Attention shows where information flows, not whether it supports a label.

Shapes: T chunks, P = h w patches, S tokens of a sequence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from training.errors import RunError
from training.models import ClipModel
from training.models.compact_vivit import FactorisedViViT
from training.models.layers import Attention, Stack, full_last_layers, split_heads
from training.models.vivit.factorised_dot import DotProductAttention
from training.models.vivit.factorised_encoder import FactorisedEncoderViViT
from training.models.vivit.factorised_self import FactorisedSelfLayer
from training.models.vivit.joint import JointHead
from training.models.vivit.window import LayeredHead, WindowViViT

Attentions = dict[nn.Module, tuple[Tensor, ...]]
"""The attention of each module in the latest forward pass, as a mean over its heads."""


def has_rollout(model: ClipModel) -> bool:
    """Tell whether `rollout` supports the model's layers."""
    return isinstance(model, (FactorisedEncoderViViT, FactorisedViViT, WindowViViT))


def rollout(model: ClipModel, chunks: Tensor) -> Tensor:
    """Return the share of each patch in the prediction for a window (T, t, H, W, 3) uint8: (T, h, w), the sum is 1.

    Raises `RunError` for a model without known attention.
    """
    with torch.no_grad(), full_last_layers(model), _recorded(model) as attentions:
        model(chunks[None])
    if isinstance(model, (FactorisedEncoderViViT, FactorisedViViT)):
        grid = _grid(model, chunks)
        space = _stack_shares(model.encoder.stack, attentions)  # (T, P)
        time = _stack_shares(model.head.stack, attentions)  # (1, T)
        shares = space * time[0, :, None]
    elif isinstance(model, WindowViViT):
        grid = model.encoder.grid
        head = model.head
        if isinstance(head, JointHead):
            shares = _stack_shares(head.stack, attentions).reshape(len(chunks), -1)
        else:
            assert isinstance(head, LayeredHead)
            shares = _layered_shares(head, attentions, chunks=len(chunks), patches=grid[0] * grid[1])
    else:
        raise RunError(f"{type(model).__name__}: attention rollout knows only ViViTs; give --method occlusion")
    return shares.reshape(len(chunks), *grid)


def _grid(model: FactorisedEncoderViViT | FactorisedViViT, chunks: Tensor) -> tuple[int, int]:
    if isinstance(model, FactorisedEncoderViViT):
        return model.encoder.tubelets.grid
    patch = model.encoder.embedding.patch
    return chunks.shape[2] // patch, chunks.shape[3] // patch


def _stack_shares(stack: Stack, attentions: Attentions) -> Tensor:
    """Return the shares of a stack's tokens in its result: (N, S) without the class token; each row sums to 1."""
    first = stack.layers[0].attention
    assert isinstance(first, nn.Module)
    n, s = attentions[first][0].shape[:2]
    shares = torch.full((n, s), 1 / s)
    if stack.pool == "class":
        shares = torch.zeros(n, s)
        shares[:, 0] = 1
    for layer in reversed(list(stack.layers)):
        attention = layer.attention
        assert isinstance(attention, nn.Module)
        shares = 0.5 * shares + 0.5 * (shares[:, None] @ attentions[attention][0])[:, 0]
    if stack.pool == "class":
        shares = shares[:, 1:]
    return shares / shares.sum(dim=1, keepdim=True)


def _layered_shares(head: LayeredHead, attentions: Attentions, *, chunks: int, patches: int) -> Tensor:
    """Return the shares (T, P) for heads whose layers attend over space and time separately; all sum to 1."""
    shares = torch.full((chunks, patches), 1 / (chunks * patches))
    for layer in reversed(list(head.layers)):
        if isinstance(layer, FactorisedSelfLayer):
            shares = 0.5 * shares + 0.5 * _over_time(shares, attentions[layer.time_attention][0])
            shares = 0.5 * shares + 0.5 * _over_space(shares, attentions[layer.attention][0])
        else:
            attention = layer.attention
            assert isinstance(attention, DotProductAttention)
            space, time = attentions[attention]
            share = attention.space_heads / (attention.space_heads + attention.time_heads)
            mixed = share * _over_space(shares, space) + (1 - share) * _over_time(shares, time)
            shares = 0.5 * shares + 0.5 * mixed
    return shares


def _over_space(shares: Tensor, attention: Tensor) -> Tensor:
    """Pass shares (T, P) back through attention over the patches of each chunk, (T, P, P)."""
    return torch.einsum("tp,tpq->tq", shares, attention)


def _over_time(shares: Tensor, attention: Tensor) -> Tensor:
    """Pass shares (T, P) back through attention over the chunks of each patch, (P, T, T)."""
    return torch.einsum("tp,pts->sp", shares, attention)


@contextmanager
def _recorded(model: nn.Module) -> Iterator[Attentions]:
    """Compute the attention of every module from its input, while the model runs in the block."""
    attentions: Attentions = {}

    def hook(compute: Callable[[Any, Tensor], tuple[Tensor, ...]]) -> Callable[[nn.Module, Any], None]:
        def record(module: nn.Module, inputs: Any) -> None:
            attentions[module] = compute(module, inputs[0])

        return record

    handles = [
        module.register_forward_pre_hook(hook(compute))
        for module in model.modules()
        for kind, compute in ((Attention, _self_attention), (DotProductAttention, _split_attention))
        if isinstance(module, kind)
    ]
    try:
        yield attentions
    finally:
        for handle in handles:
            handle.remove()


def _self_attention(module: Attention, x: Tensor) -> tuple[Tensor, ...]:
    """Return the attention (N, S, S) of `Attention` for its input (N, S, D)."""
    q, k = split_heads(module.q(x) * module.scale, module.heads), split_heads(module.k(x), module.heads)
    return ((q @ k.transpose(-2, -1)).softmax(dim=-1).mean(dim=1),)


def _split_attention(module: DotProductAttention, x: Tensor) -> tuple[Tensor, ...]:
    """Return the attention over space (T, P, P) and over time (P, T, T) for the input (1, T, P, D)."""
    q, k = module.q(x) * module.scale, module.k(x)
    cut = x.shape[-1] * module.space_heads // (module.space_heads + module.time_heads)
    space = (module._in_space(y[..., :cut]) for y in (q, k))
    time = (module._in_time(y[..., cut:]) for y in (q, k))
    return tuple(
        (queries @ keys.transpose(-2, -1)).softmax(dim=-1).mean(dim=1) for queries, keys in (tuple(space), tuple(time))
    )
