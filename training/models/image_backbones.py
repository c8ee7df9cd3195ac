"""Weights of image models: read from safetensors, or by timm's name where there is a network; never unpickled."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from training.errors import RecipeError, RunError
from training.models.layers import Stack
from training.models.positions import Positions
from training.models.vivit.tubelets import Inflation, Tubelets
from training.weights import State, read_weights


def new_timm(name: str, *, pretrained: bool = False, **words: Any) -> nn.Module:
    """timm's model of that name. Raises `RecipeError` where it knows none, `RunError` where weights cannot be had."""
    import timm

    if not timm.is_model(name.removeprefix("hf-hub:").split(".")[0]):
        close = timm.list_models(f"*{name[:6]}*")[:4]
        raise RecipeError(f"{name}: timm has no such model" + (f"; it has {', '.join(close)}, …" if close else ""))
    try:
        return timm.create_model(name, pretrained=pretrained, **words)
    except (OSError, RuntimeError, ValueError, TypeError) as error:  # hub and network errors derive from these
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        if not pretrained:
            raise RecipeError(f"{name}: cannot be built so ({said})") from error
        raise RunError(f"{name}: its weights cannot be fetched ({said}); give the path of a .safetensors") from error


def load_backbone(backbone: nn.Module, path: Path) -> None:
    """Read all of a timm backbone's weights from safetensors; a classifier's that it has not are left out.

    Weights of three input channels serve any number of them. Raises `RecipeError` or `RunError`.
    """
    from timm.models import adapt_input_conv

    state, own = read_weights(path), backbone.state_dict()
    for name, value in own.items():
        given = state.get(name)
        if given is not None and value.ndim == 4 and given.ndim == 4 and given.shape[1] == 3 != value.shape[1]:
            state[name] = adapt_input_conv(value.shape[1], given)
    wrong = [name for name, value in own.items() if name not in state or state[name].shape != value.shape]
    if wrong:
        raise RecipeError(f"{path}: {len(wrong)} tensors do not fit the backbone, such as {wrong[0]}; whose are they?")
    backbone.load_state_dict({name: state[name] for name in own})


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageVit:
    """An image ViT's weights in timm's words; gives them to the parts of a ViViT (section 3.4).

    Every method raises `RecipeError` where the sizes do not fit.
    """

    source: str
    state: State

    @classmethod
    def open(cls, source: str) -> ImageVit:
        """From a path that ends in .safetensors, or by timm's name. Raises `RunError`."""
        if Path(source).suffix in (".safetensors", ".pth", ".pt", ".bin", ".npz", ".ckpt"):
            state = read_weights(Path(source))
        else:
            state = new_timm(source, pretrained=True).state_dict()
        missing = [
            name for name in ("patch_embed.proj.weight", "pos_embed", "blocks.0.norm1.weight") if name not in state
        ]
        if missing:
            raise RecipeError(
                f"{source}: not an image ViT in timm's words (no {missing[0]}); take a timm vit_ or deit_"
            )
        return cls(source=source, state=state)

    def give_embedding(self, tubelets: Tubelets, inflation: Inflation) -> None:
        """The patch embedding, inflated over a chunk's frames."""
        try:
            tubelets.start_from(self.state["patch_embed.proj.weight"], self.state["patch_embed.proj.bias"], inflation)
        except (KeyError, ValueError) as error:
            raise RecipeError(f"{self.source}: {error}") from error

    def give_positions(self, positions: Positions) -> None:
        """Positions, resized to the model's picture and repeated for every chunk; and the class token."""
        table, class_token = self.state["pos_embed"], self.state.get("cls_token")
        side = int((table.shape[1] - (class_token is not None)) ** 0.5)
        self._same("width", table.shape[2], positions.table.shape[2])
        try:
            positions.start_from(table, (side, side), class_token)
        except ValueError as error:
            raise RecipeError(f"{self.source}: {error}") from error

    def give_stack(self, stack: Stack) -> None:
        """All layers and the norm after them."""
        self.give_layers(stack.layers, stack.norm)

    def give_layers(self, layers: Iterable[nn.Module], norm: nn.Module) -> None:
        """Attention, MLP and norms of each layer; a layer's other parts stay as they are."""
        layers = list(layers)
        count = len({name.split(".")[1] for name in self.state if name.startswith("blocks.")})
        self._same("depth in layers", count, len(layers))
        for index, layer in enumerate(layers):
            part = {
                k.removeprefix(f"blocks.{index}."): v for k, v in self.state.items() if k.startswith(f"blocks.{index}.")
            }
            unknown = {name.split(".")[0] for name in part} - {"norm1", "attn", "norm2", "mlp"}
            if unknown or "attn.qkv.bias" not in part:
                raise RecipeError(
                    f"{self.source}: its layers differ from ViT's ({', '.join(sorted(unknown)) or 'no bias'})"
                )
            _copy(_in_our_words(part), layer, self.source)
        if "norm.weight" in self.state:
            _copy({name: self.state[f"norm.{name}"] for name in ("weight", "bias")}, norm, self.source)

    def _same(self, what: str, theirs: int, ours: int) -> None:
        if theirs != ours:
            raise RecipeError(f"{self.source}: its {what} is {theirs}, this model's {ours}; take the size that fits")


def _in_our_words(part: State) -> State:
    named: State = {}
    for kind in ("weight", "bias"):
        q, k, v = part[f"attn.qkv.{kind}"].chunk(3)
        named |= {f"attention.{name}.{kind}": value for name, value in (("q", q), ("k", k), ("v", v))}
        named |= {
            f"attention.out.{kind}": part[f"attn.proj.{kind}"],
            f"mlp.0.{kind}": part[f"mlp.fc1.{kind}"],
            f"mlp.2.{kind}": part[f"mlp.fc2.{kind}"],
            f"norm1.{kind}": part[f"norm1.{kind}"],
            f"norm2.{kind}": part[f"norm2.{kind}"],
        }
    return named


def _copy(state: State, part: nn.Module, source: str) -> None:
    """Into parameters of these names; others are left."""
    own = dict(part.named_parameters())
    with torch.no_grad():
        for name, value in state.items():
            if own[name].shape != value.shape:
                raise RecipeError(
                    f"{source}: {name} is {tuple(value.shape)}, this model's {tuple(own[name].shape)}; "
                    "take the size that fits"
                )
            own[name].copy_(value)
