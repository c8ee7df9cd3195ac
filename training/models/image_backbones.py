"""Read weights of image models from safetensors, or download them by their name in timm. Pickles are never read."""

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


def new_timm(name: str, *, pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """Create a timm model. Raises `RecipeError` for an unknown name, `RunError` if weights cannot be fetched."""
    import timm

    if not timm.is_model(name.removeprefix("hf-hub:").split(".")[0]):
        close = timm.list_models(f"*{name[:6]}*")[:4]
        raise RecipeError(f"{name}: timm has no such model" + (f"; it has {', '.join(close)}, …" if close else ""))
    try:
        return timm.create_model(name, pretrained=pretrained, **kwargs)
    except (OSError, RuntimeError, ValueError, TypeError) as error:  # hub and network errors derive from these
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if not pretrained:
            raise RecipeError(f"{name}: timm cannot create it with these arguments ({reason})") from error
        raise RunError(
            f"{name}: its weights cannot be fetched ({reason}); give the path of a .safetensors file"
        ) from error


def load_backbone(backbone: nn.Module, path: Path) -> None:
    """Read all weights of a timm backbone from safetensors; skip the tensors of a classifier that it lacks.

    Weights for three input channels are adapted to any number of channels. Raises `RecipeError` where tensors do not
    fit, `RunError` where the file cannot be read.
    """
    from timm.models import adapt_input_conv

    state, own = read_weights(path), backbone.state_dict()
    for name, value in own.items():
        given = state.get(name)
        if given is not None and value.ndim == 4 and given.ndim == 4 and given.shape[1] == 3 != value.shape[1]:
            state[name] = adapt_input_conv(value.shape[1], given)
    wrong = [name for name, value in own.items() if name not in state or state[name].shape != value.shape]
    if wrong:
        raise RecipeError(
            f"{path}: {len(wrong)} tensors do not fit the backbone, such as {wrong[0]}; give this backbone's weights"
        )
    backbone.load_state_dict({name: state[name] for name in own})


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageVit:
    """An image ViT's weights under timm's names, and methods that copy them into a ViViT (section 3.4).

    Every method raises `RecipeError` where the sizes do not fit.
    """

    source: str
    state: State

    @classmethod
    def open(cls, source: str) -> ImageVit:
        """Read a .safetensors file, or download by a name in timm. Raises `RunError` if neither works."""
        if Path(source).suffix in (".safetensors", ".pth", ".pt", ".bin", ".npz", ".ckpt"):
            state = read_weights(Path(source))
        else:
            state = new_timm(source, pretrained=True).state_dict()
        missing = [
            name for name in ("patch_embed.proj.weight", "pos_embed", "blocks.0.norm1.weight") if name not in state
        ]
        if missing:
            raise RecipeError(
                f"{source}: not an image ViT with timm's tensor names (no {missing[0]}); use a timm vit_ or deit_ model"
            )
        return cls(source=source, state=state)

    def copy_embedding(self, tubelets: Tubelets, inflation: Inflation) -> None:
        """Copy the patch embedding, inflated over a chunk's frames."""
        try:
            tubelets.start_from(self.state["patch_embed.proj.weight"], self.state["patch_embed.proj.bias"], inflation)
        except (KeyError, ValueError) as error:
            raise RecipeError(f"{self.source}: {error}") from error

    def copy_positions(self, positions: Positions) -> None:
        """Copy the positions, resized to the model's grid and repeated for every chunk, and the class token."""
        table, class_token = self.state["pos_embed"], self.state.get("cls_token")
        side = int((table.shape[1] - (class_token is not None)) ** 0.5)
        self._check_equal("width", table.shape[2], positions.table.shape[2])
        try:
            positions.start_from(table, (side, side), class_token)
        except ValueError as error:
            raise RecipeError(f"{self.source}: {error}") from error

    def copy_stack(self, stack: Stack) -> None:
        """Copy all layers and the norm after them."""
        self.copy_layers(stack.layers, stack.norm)

    def copy_layers(self, layers: Iterable[nn.Module], norm: nn.Module) -> None:
        """Copy attention, MLP and norms of each layer, and the last norm; other parts keep their weights."""
        layers = list(layers)
        count = len({name.split(".")[1] for name in self.state if name.startswith("blocks.")})
        self._check_equal("depth in layers", count, len(layers))
        for index, layer in enumerate(layers):
            part = {
                k.removeprefix(f"blocks.{index}."): v for k, v in self.state.items() if k.startswith(f"blocks.{index}.")
            }
            unknown = {name.split(".")[0] for name in part} - {"norm1", "attn", "norm2", "mlp"}
            if unknown or "attn.qkv.bias" not in part:
                raise RecipeError(
                    f"{self.source}: its layers are not a plain ViT's ({', '.join(sorted(unknown)) or 'no bias'})"
                )
            _copy(_rename_tensors(part), layer, self.source)
        if "norm.weight" in self.state:
            _copy({name: self.state[f"norm.{name}"] for name in ("weight", "bias")}, norm, self.source)

    def _check_equal(self, what: str, theirs: int, ours: int) -> None:
        if theirs != ours:
            raise RecipeError(
                f"{self.source}: its {what} is {theirs}, this model's {ours}; use an image model of the same size"
            )


def _rename_tensors(part: State) -> State:
    """Rename one layer's tensors from timm's names to the names in `training.models.layers.Layer`."""
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
    """Copy tensors into the parameters of the same names; leave the other parameters. Raises `RecipeError`."""
    own = dict(part.named_parameters())
    with torch.no_grad():
        for name, value in state.items():
            if own[name].shape != value.shape:
                raise RecipeError(
                    f"{source}: {name} has shape {tuple(value.shape)}, this model's {tuple(own[name].shape)}; "
                    "use an image model of the same size"
                )
            own[name].copy_(value)
