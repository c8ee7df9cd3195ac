"""A training recipe: one YAML file that says everything, checked before anything runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from training.errors import RecipeError

MAX_RECIPE_BYTES = 1 << 20


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelRecipe(_Section):
    """The network; the words are those of `training.models.vivit_factorised`."""

    kind: Literal["vivit_factorised"] = "vivit_factorised"
    height: int = Field(ge=8, le=4096, description="pixels")
    width: int = Field(ge=8, le=4096, description="pixels")
    frames_per_token: int = Field(ge=1, le=64)
    tokens: int = Field(ge=1, le=1024)
    patch: int = Field(16, ge=1, description="pixels")
    stem: tuple[tuple[int, int], ...] = Field((), description="(size, width) of the tree under a patch; none is linear")
    dim: int = Field(ge=8)
    heads: int = Field(ge=1)
    spatial_layers: int = Field(ge=1)
    temporal_layers: int = Field(ge=1)
    mlp_ratio: float = Field(4.0, gt=0)
    drop_path: float = Field(0.0, ge=0, lt=1)
    changes: bool = Field(False, description="the head also reads what changed from token to token")


class CameraEventsData(_Section):
    """Footage that `training.camera_events` makes."""

    kind: Literal["camera_events"] = "camera_events"
    cache: Path = Field(description="folder for rendered footage, about 1.7 MB a clip at 144 x 192")
    clips: int = Field(ge=8)
    validation_clips: int = Field(ge=8)
    frames: int = Field(ge=2, description="frames of one clip; at least a window")
    normal_share: float = Field(gt=0, lt=1, description="share of clips in which nothing happens")
    normal_windows: float = Field(gt=0, lt=1, description="share of a step's windows in which nothing happens")
    workers: int = Field(2, ge=0, le=64, description="processes that render")


class OptimiserRecipe(_Section):
    """AdamW with a linear warm-up and a cosine to zero."""

    learning_rate: float = Field(gt=0)
    weight_decay: float = Field(0.05, ge=0)
    warmup_steps: int = Field(ge=0)
    steps: int = Field(ge=1)
    batch: int = Field(ge=1, description="windows in one step")
    clip_norm: float = Field(1.0, gt=0)


class LossRecipe(_Section):
    """Cross-entropy on the label, and regression of what happened in each token."""

    label_smoothing: float = Field(0.05, ge=0, lt=1)
    truth_weight: float = Field(1.0, ge=0, description="weight of the regression at the start; falls to a tenth")
    patch_keep: float = Field(1.0, gt=0, le=1, description="share of patches that training looks at (PatchDropout)")
    all_patches_from: float = Field(0.85, ge=0, le=1, description="share of the steps after which it looks at all")


class Recipe(_Section):
    """A whole recipe."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")
    version: str = Field("1", pattern=r"^[0-9A-Za-z][0-9A-Za-z.+-]{0,31}$")
    fps: float = Field(gt=0, le=240, description="sampled frames per second")
    seed: int = Field(1, ge=0)
    processes: int = Field(1, ge=1, le=64, description="data-parallel; each takes its part of the batch")
    threads: int = Field(2, ge=1, description="of one process")
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    validate_every: int = Field(250, ge=1, description="steps")
    start_from: Path | None = Field(None, description="safetensors of an earlier run, to go on from its weights")
    model: ModelRecipe
    data: CameraEventsData
    optimiser: OptimiserRecipe
    loss: LossRecipe

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
        window = self.model.tokens * self.model.frames_per_token
        if self.data.frames < window:
            raise ValueError(f"data.frames={self.data.frames}: a window has {window} frames; give at least as many")
        return self


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
            key = ".".join(str(part) for part in item["loc"]) or "recipe"
            given = "" if isinstance(item["input"], dict) else f"={item['input']!r}"
            hint = "unknown key; remove it or mend its spelling" if item["type"] == "extra_forbidden" else item["msg"]
            lines.append(f"{key}{given}: {hint}")
        raise RecipeError(f"{where}: " + "; ".join(lines)) from error


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
