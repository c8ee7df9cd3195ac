"""A training recipe: one YAML file with all settings of a run, checked before anything runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import Field, ValidationError, model_validator

from engines.bundle import Activation
from streamclf.config.yaml_text import YamlTextError, parse_yaml
from streamclf.errors import UsageError, plain_fault
from streamclf.net.trusted_files import read_small_text
from streamclf.sources import Resize
from training.data.augment import AugmentRecipe
from training.data.shape import Shape
from training.data.windows import WindowsRecipe
from training.data_section import DataRecipe
from training.errors import RecipeError
from training.models import ModelRecipe
from training.overrides import apply_overrides
from training.section import Section

MAX_RECIPE_BYTES = 1 << 20
MONITORED: Final[Mapping[Activation, tuple[str, ...]]] = {
    "softmax": ("balanced_accuracy", "top1", "auc", "loss"),
    "sigmoid": ("map", "macro_f1", "auc", "loss"),
}
"""The figures that may choose the best weights, by the activation of the model."""

RENAMED_KEYS = {
    "average": "ema_decay",
    "backbone_words": "backbone_kwargs",
    "described": "described_channels",
    "find_twins": "find_duplicates",
    "held_back": "validation",
    "held_back_clips": "validation_clips",
    "held_back_share": "validation_fraction",
    "held_back_split": "validation_split",
    "loaders": "num_workers",
    "lost": "joint_dropout",
    "motion.window": "patch_size",
    "pooled": "pooled_channels",
    "rounds": "iterations",
    "steadiness": "damping",
    "truth_weight": "aux_weight",
    "unseen": "feature_dropout",
    "width_of_stages": "stage_channels",
}
"""Keys of older recipes, some as `kind.key`, and the keys that replace them; errors name the new key."""
RENAMED_VALUES = {
    ("golden", "held_back"): "validation",
    ("golden", "made"): "synthetic",
    ("kind", "gestures_made"): "synthetic_gestures",
}
"""(Key, value) of older recipes, and the value that replaces it; errors name the new value."""


class OptimiserRecipe(Section):
    """The `optimiser` section: the algorithm, and its learning rate after a linear warm-up."""

    kind: Literal["adamw", "muon", "adam"] = Field(
        "adamw",
        description="muon: Muon for matrices inside the model, AdamW for the rest; adam: without weight decay, and "
        "with the defaults of Keras",
    )
    schedule: Literal["cosine", "constant"] = Field(
        "cosine", description="the learning rate after the warm-up: a cosine decay to zero, or constant"
    )
    learning_rate: float = Field(gt=0)
    weight_decay: float = Field(0.05, ge=0, description="of adamw and muon; adam has none")
    warmup_steps: int = Field(ge=0)
    steps: int = Field(ge=1)
    batch: int = Field(ge=1, description="windows in one step, of all processes together")
    clip_norm: float = Field(1.0, gt=0, description="largest norm of the gradients; larger ones are scaled down")
    frozen_steps: int = Field(
        0, ge=0, description="steps in which the backbone is frozen; with all steps it is never trained"
    )
    backbone_rate: float = Field(
        1.0, gt=0, le=1, description="the backbone's learning rate as a share of the other parts' rate"
    )
    ema_decay: float | None = Field(
        None, gt=0, lt=1, description="keep an exponential moving average of the weights with this decay, such as 0.99"
    )

    @model_validator(mode="before")
    @classmethod
    def _remove_weight_decay(cls, tree: Any) -> Any:
        """Set `weight_decay` to 0 for adam, where the default would be wrong."""
        return {"weight_decay": 0.0, **tree} if isinstance(tree, dict) and tree.get("kind") == "adam" else tree

    @model_validator(mode="after")
    def _check_weight_decay(self) -> OptimiserRecipe:
        if self.kind == "adam" and self.weight_decay:
            raise ValueError(f"weight_decay={self.weight_decay}: kind: adam has none; remove it, or give kind: adamw")
        return self


class LossRecipe(Section):
    """The `loss` section: a loss on the label, and one on auxiliary targets where the data have some.

    The label's loss is cross-entropy, or binary cross-entropy of each label where labels are independent.
    """

    label_smoothing: float = Field(0.05, ge=0, lt=1)
    pos_weight: Annotated[float, Field(gt=0, le=1000)] | Literal["balanced"] = Field(
        1.0,
        description="with data.multi_label: weight of the windows that have a label, in its loss; balanced: the number "
        "of windows without the label for each window with it, at most 20",
    )
    aux_weight: float = Field(
        1.0, ge=0, description="weight of the auxiliary loss at the start; it falls to a tenth of that"
    )
    patch_keep: float = Field(
        1.0, gt=0, le=1, description="share of patches that the encoder sees in training (PatchDropout)"
    )
    all_patches_from: float = Field(
        0.85, ge=0, le=1, description="share of the steps after which the encoder sees all patches"
    )


class Recipe(Section):
    """A whole recipe."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")
    version: str = Field("1", pattern=r"^[0-9A-Za-z][0-9A-Za-z.+-]{0,31}$")
    licence: str = Field("as the data", max_length=200, description="licence of the weights, for the model card")
    about: str = Field("", max_length=2000, description="a sentence or two on data and labels, for the model card")
    decode: Literal["auto", "exact"] = Field(
        "auto", description="`exact`: the service's `decode: auto` decodes exactly for a model that judges fine detail"
    )
    hides_scene: tuple[str, ...] = Field(
        (),
        max_length=64,
        description="labels of things that hide the scene; their actions last until it is back",
    )
    fps: float = Field(gt=0, le=240, description="sampled frames per second")
    seed: int = Field(1, ge=0)
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    processes: int = Field(1, ge=1, le=64, description="data-parallel processes; each takes its share of a batch")
    threads: int = Field(2, ge=1, description="threads of one process")
    num_workers: int = Field(
        0, ge=0, le=64, description="processes that cut and augment windows; 0: the training process does it"
    )
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = Field(
        "32-true",
        description="bf16-mixed: on a CPU without instructions for bfloat16, 32-true is used, which is faster",
    )
    validate_every: int = Field(250, ge=1, description="steps between two validations")
    monitor: Literal["balanced_accuracy", "top1", "map", "macro_f1", "auc", "loss"] = Field(
        "balanced_accuracy",
        description="the figure on the validation clips by which the best weights are chosen; by default map with "
        "data.multi_label",
    )
    keep: Literal["best", "last"] = Field("best", description="which weights the run keeps")
    patience: int | None = Field(None, ge=1, description="stop after this many validations without improvement")
    golden: Literal["synthetic", "validation"] = Field(
        "synthetic",
        description="a bundle's golden window: rendered, or from the validation clips where these may be published",
    )
    start_from: Path | None = Field(None, description="safetensors of an earlier run, to start from its weights")
    start_strict: bool = Field(
        True, description="false: load only the tensors that fit, for example with other classes"
    )
    model: ModelRecipe
    data: DataRecipe
    windows: WindowsRecipe = WindowsRecipe()
    augment: AugmentRecipe = AugmentRecipe()
    optimiser: OptimiserRecipe
    loss: LossRecipe = LossRecipe()

    @property
    def shape(self) -> Shape:
        """Return the rate, window length and frame size that the model takes."""
        m = self.model
        return Shape(fps=self.fps, frames_per_chunk=m.frames_per_chunk, chunks=m.chunks, height=m.height, width=m.width)

    @property
    def resize(self) -> Resize:
        """Return how frames of another shape become the model's."""
        return self.data.resize_policy or "stretch"

    @property
    def activation(self) -> Activation:
        """Return how the model's logits become probabilities."""
        return "sigmoid" if self.data.has_independent_labels else "softmax"

    @property
    def frozen(self) -> bool:
        """Tell whether the backbone is never trained."""
        return self.optimiser.frozen_steps >= self.optimiser.steps

    @model_validator(mode="before")
    @classmethod
    def _add_first_kind(cls, tree: Any) -> Any:
        """Add `kind: camera_events` to recipes written before there were other kinds of data."""
        if isinstance(tree, dict) and isinstance(tree.get("data"), dict):
            return {**tree, "data": {"kind": "camera_events", **tree["data"]}}
        return tree

    @model_validator(mode="after")
    def _check_labels(self) -> Recipe:
        if self.activation == "sigmoid" and "monitor" not in self.model_fields_set:
            self.__dict__["monitor"] = "map"
        known = MONITORED[self.activation]
        if self.monitor not in known:
            labels = "several labels" if self.activation == "sigmoid" else "one label"
            raise ValueError(f"monitor={self.monitor}: with {labels} for each clip, one of {', '.join(known)}")
        if self.activation == "softmax" and self.loss.pos_weight != 1:
            raise ValueError(f"loss.pos_weight={self.loss.pos_weight}: only with data.multi_label: true; remove it")
        return self

    @model_validator(mode="after")
    def _check_together(self) -> Recipe:
        if self.optimiser.batch % self.processes:
            raise ValueError(
                f"optimiser.batch={self.optimiser.batch}: must be a multiple of processes={self.processes}"
            )
        if self.optimiser.steps % min(self.validate_every, self.optimiser.steps):
            raise ValueError(
                f"validate_every={self.validate_every}: must divide optimiser.steps={self.optimiser.steps}, "
                "or the last weights would never be measured"
            )
        self._check_data()
        if self.windows.views:
            self._check_views()
        return self

    def _check_data(self) -> None:
        data = self.data
        if data.required_model is not None and self.model.kind != data.required_model:
            raise ValueError(f"model.kind={self.model.kind}: data.kind: {data.kind} needs {data.required_model}")
        data.check_shape(self.shape)
        if data.trains_head_only and (not self.frozen or self.windows.views):
            raise ValueError(
                f"data.kind: {data.kind} trains a head alone; set optimiser.frozen_steps={self.optimiser.steps} (all "
                "steps) and windows.views: 0"
            )
        if data.cuts_windows:
            for key in ("windows", "augment"):
                if getattr(self, key) != type(self).model_fields[key].default:
                    raise ValueError(
                        f"{key}: data.kind: {data.kind} cuts and augments windows in its own way; remove the section"
                    )
        elif self.loss.patch_keep < 1:
            raise ValueError(f"loss.patch_keep={self.loss.patch_keep}: only for data.kind: camera_events")

    def _check_views(self) -> None:
        views = self.windows.views
        if not self.frozen:
            raise ValueError(
                f"windows.views={views}: needs a frozen backbone; set optimiser.frozen_steps="
                f"{self.optimiser.steps} (all steps), or windows.views: 0"
            )
        if self.model.frames_per_chunk > 1:
            # Cached features are those of whole chunks at the clip's own speed.
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
                        f"{self.model.frames_per_chunk} only {wanted} works; change it, or set windows.views: 0"
                    )


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read the recipe `path`, apply overrides, and check everything.

    An override is `key.sub=value`, where the value is YAML and a number selects an item of a list, as in
    `data.parts.1.share=2`. Raises `RecipeError` with the key, the value and the remedy.
    """
    try:
        text = read_small_text(path, max_bytes=MAX_RECIPE_BYTES, remedy="give the path of a YAML recipe")
        tree = parse_yaml(text).value
    except UsageError as error:
        raise RecipeError(str(error)) from error
    except YamlTextError as error:
        raise RecipeError(f"{path}: not YAML ({error})") from error
    if not isinstance(tree, dict):
        raise RecipeError(f"{path}: a recipe is a mapping of keys, this is {type(tree).__name__}")
    apply_overrides(tree, overrides)
    return parse_recipe(tree, where=str(path))


def parse_recipe(tree: dict[str, Any], *, where: str) -> Recipe:
    """Check the recipe in `tree`. `where` names its origin in errors."""
    try:
        return Recipe.model_validate(tree)
    except ValidationError as error:
        lines = []
        for item in error.errors()[:5]:
            key, hint = _key(tree, item["loc"]), _hint(item)
            # A value after `token=` is taken for a secret and hidden.
            is_hidden = isinstance(item["input"], dict) or key.endswith("_token")
            lines.append(f"{key}: {hint}" if is_hidden else f"{key}={item['input']!r:.80}: {hint}")
        raise RecipeError(f"{where}: " + "; ".join(lines)) from error


def _hint(item: Mapping[str, Any]) -> str:
    """Say what is wrong with a value, and the new name of a key or a value that was renamed."""
    if item["type"] == "extra_forbidden":
        key = str(item["loc"][-1])
        renamed = RENAMED_KEYS.get(key) or RENAMED_KEYS.get(".".join(map(str, item["loc"][-2:])))
        if renamed is None and "token" in key:
            renamed = key.replace("token", "chunk")
        return f"renamed to {renamed}" if renamed else "unknown key; remove it or correct its spelling"
    if item["type"] == "missing":
        return "missing; add this key"
    if item["type"] == "string_pattern_mismatch" and item["loc"] == ("name",):
        return "use 1 to 64 lower-case letters, digits, - and _, with a letter or a digit first"
    if item["type"] == "union_tag_invalid":
        kind = str(item["ctx"]["tag"])
        renamed = RENAMED_VALUES.get(("kind", kind))
        return f"kind {kind} was renamed to {renamed}" if renamed else str(item["msg"])
    value = item["input"]
    renamed = RENAMED_VALUES.get((str(item["loc"][-1]), value)) if isinstance(value, str) and item["loc"] else None
    return f"renamed to {renamed}" if renamed else plain_fault(str(item["msg"]))


def _key(tree: dict[str, Any], location: Sequence[int | str]) -> str:
    """Return an error's place as a recipe writes it: without the section's kind, which pydantic inserts."""
    names: list[str] = []
    node: Any = tree
    for depth, name in enumerate(location):
        has_name = isinstance(node, dict) and name in node
        if isinstance(node, dict) and not has_name:
            is_last = depth == len(location) - 1
            if name == node.get("kind", None if is_last else name):
                continue
        names.append(str(name))
        node = node[name] if has_name or (isinstance(node, list) and isinstance(name, int)) else None
    return ".".join(names) or "recipe"
