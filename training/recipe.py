"""A training recipe: one YAML file that says everything, checked before anything runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError, model_validator

from streamclf.sources import Resize
from training.data.augment import AugmentRecipe
from training.data.recipes import CameraEventsData, ClipsData, DataRecipe, MixedData, Shape, WindowsRecipe
from training.errors import RecipeError
from training.models import ModelRecipe
from training.section import Section

MAX_RECIPE_BYTES = 1 << 20


class OptimiserRecipe(Section):
    """AdamW with a linear warm-up and a cosine to zero."""

    learning_rate: float = Field(gt=0)
    weight_decay: float = Field(0.05, ge=0)
    warmup_steps: int = Field(ge=0)
    steps: int = Field(ge=1)
    batch: int = Field(ge=1, description="windows in one step, of all processes together")
    clip_norm: float = Field(1.0, gt=0)
    frozen_steps: int = Field(0, ge=0, description="the backbone stands still for so many steps; all of them: for good")
    backbone_rate: float = Field(1.0, gt=0, le=1, description="the backbone's learning rate, of the others'")
    average: float | None = Field(
        None, gt=0, lt=1, description="keep an average of the weights over steps with this decay, such as 0.99"
    )


class LossRecipe(Section):
    """Cross-entropy on the label, and what the encoder is asked for besides."""

    label_smoothing: float = Field(0.05, ge=0, lt=1)
    truth_weight: float = Field(1.0, ge=0, description="weight of what else is asked at the start; falls to a tenth")
    patch_keep: float = Field(1.0, gt=0, le=1, description="share of patches that training looks at (PatchDropout)")
    all_patches_from: float = Field(0.85, ge=0, le=1, description="share of the steps after which it looks at all")


class Recipe(Section):
    """A whole recipe."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")
    version: str = Field("1", pattern=r"^[0-9A-Za-z][0-9A-Za-z.+-]{0,31}$")
    licence: str = Field("as the data", max_length=200, description="of the weights, for the model card")
    about: str = Field("", max_length=2000, description="a sentence or two on data and labels, for the model card")
    fps: float = Field(gt=0, le=240, description="sampled frames per second")
    seed: int = Field(1, ge=0)
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    processes: int = Field(1, ge=1, le=64, description="data-parallel; each takes its part of the batch")
    threads: int = Field(2, ge=1, description="of one process")
    loaders: int = Field(0, ge=0, le=64, description="processes that cut and augment; 0: the trainer itself")
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    validate_every: int = Field(250, ge=1, description="steps")
    monitor: Literal["balanced_accuracy", "top1", "auc", "loss"] = Field(
        "balanced_accuracy", description="what is best: of these figures on the clips held back"
    )
    keep: Literal["best", "last"] = Field("best", description="which weights the run leaves")
    patience: int | None = Field(None, ge=1, description="validations without progress, then stop")
    golden: Literal["made", "held_back"] = Field(
        "made", description="a bundle's golden window: drawn, or a clip held back, where it may be shown"
    )
    start_from: Path | None = Field(None, description="safetensors of an earlier run, to go on from its weights")
    start_strict: bool = Field(True, description="false: take the tensors that fit, as for other classes")
    model: ModelRecipe
    data: DataRecipe
    windows: WindowsRecipe = WindowsRecipe()
    augment: AugmentRecipe = AugmentRecipe()
    optimiser: OptimiserRecipe
    loss: LossRecipe = LossRecipe()

    @property
    def shape(self) -> Shape:
        """What the model asks of a clip."""
        m = self.model
        return Shape(fps=self.fps, frames_per_chunk=m.frames_per_chunk, chunks=m.chunks, height=m.height, width=m.width)

    @property
    def frozen(self) -> bool:
        """Whether the backbone never learns."""
        return self.optimiser.frozen_steps >= self.optimiser.steps

    @model_validator(mode="before")
    @classmethod
    def _first_kind(cls, tree: Any) -> Any:
        """Recipes that are older than the second kind of data name none."""
        if isinstance(tree, dict) and isinstance(tree.get("data"), dict):
            return {**tree, "data": {"kind": "camera_events", **tree["data"]}}
        return tree

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        if self.optimiser.batch % self.processes:
            raise ValueError(
                f"optimiser.batch={self.optimiser.batch}: must be a multiple of processes={self.processes}"
            )
        if self.optimiser.steps % min(self.validate_every, self.optimiser.steps):
            raise ValueError(
                f"validate_every={self.validate_every}: must divide optimiser.steps={self.optimiser.steps}, "
                "or the last weights would never be measured"
            )
        if isinstance(self.data, CameraEventsData):
            self._check_camera_events(self.data)
        elif self.loss.patch_keep < 1:
            raise ValueError(f"loss.patch_keep={self.loss.patch_keep}: only for data.kind: camera_events")
        if self.windows.views:
            self._check_views()
        return self

    def _check_camera_events(self, data: CameraEventsData) -> None:
        window = self.shape.window
        if data.frames < window:
            raise ValueError(f"data.frames={data.frames}: a window has {window} frames; give at least as many")
        if self.model.kind != "vivit_factorised":
            raise ValueError(f"model.kind={self.model.kind}: camera_events learns with vivit_factorised")
        for key in ("windows", "augment"):
            if getattr(self, key) != type(self).model_fields[key].default:
                raise ValueError(f"{key}: camera_events cuts and changes windows in its own way; remove the section")

    def _check_views(self) -> None:
        views = self.windows.views
        if not self.frozen:
            raise ValueError(
                f"windows.views={views}: features are kept of a frozen backbone only; set optimiser.frozen_steps="
                f"{self.optimiser.steps} (all steps)"
            )
        if self.model.frames_per_chunk > 1:
            # Kept features are of whole chunks, as filmed.
            for section, key, wanted in (
                (self.augment, "speed", (1.0, 1.0)),
                (self.augment, "reverse", False),
                (self.windows, "fit", "rate"),
                (self.windows, "short_clips", "hold"),
            ):
                if getattr(section, key) != wanted:
                    name = "augment" if section is self.augment else "windows"
                    raise ValueError(
                        f"{name}.{key}={getattr(section, key)}: with windows.views and model.frames_per_chunk="
                        f"{self.model.frames_per_chunk} only {wanted}; change it, or set windows.views: 0"
                    )


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read `path`, apply `key.sub=value` overrides (values are YAML), and check everything.

    Raises `RecipeError` with the key, the value and what would be right.
    """
    try:
        if path.stat().st_size > MAX_RECIPE_BYTES:
            raise RecipeError(f"{path}: {path.stat().st_size} bytes, at most {MAX_RECIPE_BYTES}; is it a recipe?")
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read ({error.strerror})") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: not YAML ({str(error).splitlines()[0]})") from error
    if not isinstance(tree, dict):
        raise RecipeError(f"{path}: a recipe is a mapping of keys, this is {type(tree).__name__}")
    for override in overrides:
        _apply(tree, override)
    return parse_recipe(tree, where=str(path))


def parse_recipe(tree: dict[str, Any], *, where: str) -> Recipe:
    """The recipe in `tree`; `where` names its origin in errors."""
    try:
        return Recipe.model_validate(tree)
    except ValidationError as error:
        lines = []
        for item in error.errors()[:5]:
            given = "" if isinstance(item["input"], dict) else f"={item['input']!r}"
            hint = "unknown key; remove it or mend its spelling" if item["type"] == "extra_forbidden" else item["msg"]
            lines.append(f"{_key(tree, item['loc'])}{given}: {hint}")
        raise RecipeError(f"{where}: " + "; ".join(lines)) from error


def _key(tree: dict[str, Any], location: Sequence[int | str]) -> str:
    """An error's place as a recipe spells it: without the section's kind, which pydantic puts in between."""
    parts: list[str] = []
    node: Any = tree
    for depth, part in enumerate(location):
        has_part = isinstance(node, dict) and part in node
        if isinstance(node, dict) and not has_part and depth < len(location) - 1 and part == node.get("kind", part):
            continue
        parts.append(str(part))
        node = node[part] if has_part or (isinstance(node, list) and isinstance(part, int)) else None
    return ".".join(parts) or "recipe"


def _apply(tree: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise RecipeError(f"{override!r}: an override is key=value, such as optimiser.steps=100")
    *parents, last = key.split(".")
    node = tree
    for parent in parents:
        child = node.setdefault(parent, {})
        if not isinstance(child, dict):
            raise RecipeError(f"{override!r}: {parent} is a value, not a section")
        node = child
    try:
        node[last] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise RecipeError(f"{override!r}: the value is not YAML") from error


def resize_of(recipe: Recipe) -> Resize:
    """How the recipe's pictures become the model's; the first of a mixture's films says it for all."""
    data = recipe.data
    parts = [part.data for part in data.parts] if isinstance(data, MixedData) else [data]
    return next((part.resize for part in parts if isinstance(part, ClipsData)), "stretch")
