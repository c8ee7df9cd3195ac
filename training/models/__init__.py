"""Models, one per file; each gives an `encoder` and a `head`, and has its recipe beside it."""

from __future__ import annotations

from typing import Annotated, Any, Final, TypeAlias

from pydantic import Discriminator, Tag

from training.models.attentive import AttentiveModel, AttentiveRecipe
from training.models.base import ClipModel, ClipRecipe
from training.models.compact_vivit import FactorisedViViT, VivitFactorisedRecipe
from training.models.conv_transformer import ConvTransformer, ConvTransformerRecipe
from training.models.hybrid import Hybrid, HybridRecipe
from training.models.keypoint import KeypointModel, KeypointRecipe
from training.models.motion import MotionModel, MotionRecipe
from training.models.pose import PoseModel, PoseRecipe
from training.models.vivit.recipe import VivitRecipe, build_vivit

KINDS: Final = ("vivit_factorised", "vivit", "hybrid", "conv_transformer", "keypoint", "attentive", "pose", "motion")


def _kind(section: Any) -> str:
    """A recipe that names no kind means the first there was."""
    if isinstance(section, ClipRecipe):
        return str(getattr(section, "kind", ""))
    return str(section.get("kind", KINDS[0])) if isinstance(section, dict) else KINDS[0]


ModelRecipe: TypeAlias = Annotated[
    Annotated[VivitFactorisedRecipe, Tag("vivit_factorised")]
    | Annotated[VivitRecipe, Tag("vivit")]
    | Annotated[HybridRecipe, Tag("hybrid")]
    | Annotated[ConvTransformerRecipe, Tag("conv_transformer")]
    | Annotated[KeypointRecipe, Tag("keypoint")]
    | Annotated[AttentiveRecipe, Tag("attentive")]
    | Annotated[PoseRecipe, Tag("pose")]
    | Annotated[MotionRecipe, Tag("motion")],
    Discriminator(
        _kind,
        custom_error_type="unknown_kind",
        custom_error_message=f"kind: there are {', '.join(KINDS)}",
    ),
]
"""A recipe's `model` section, told apart by `kind`."""


def build(recipe: ModelRecipe, *, labels: int) -> ClipModel:
    """The recipe's model for `labels` classes, with fresh weights or those that it says to start from.

    Raises `RecipeError` where the weights do not fit, `RunError` where they cannot be read.
    """
    if isinstance(recipe, VivitRecipe):
        return build_vivit(recipe, labels=labels)
    if isinstance(recipe, HybridRecipe):
        return Hybrid(recipe=recipe, labels=labels)
    if isinstance(recipe, ConvTransformerRecipe):
        return ConvTransformer(recipe=recipe, labels=labels)
    if isinstance(recipe, AttentiveRecipe):
        return AttentiveModel(recipe=recipe, labels=labels)
    if isinstance(recipe, PoseRecipe):
        return PoseModel(recipe=recipe, labels=labels)
    if isinstance(recipe, MotionRecipe):
        return MotionModel(recipe=recipe, labels=labels)
    if isinstance(recipe, KeypointRecipe):
        return KeypointModel(labels=labels, **recipe.model_dump(exclude={"kind"}))
    return FactorisedViViT(labels=labels, **recipe.model_dump(exclude={"kind"}))


__all__ = ["KINDS", "ClipModel", "ClipRecipe", "ModelRecipe", "build"]
