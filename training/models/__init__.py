"""Define the models, one per file: each has a recipe, an `encoder` and a `head`."""

from __future__ import annotations

from typing import Annotated, Any, Final, TypeAlias, get_args

from pydantic import BeforeValidator, Field

from training.models.attentive import AttentiveRecipe
from training.models.base import BaseModelRecipe, ClipModel
from training.models.compact_vivit import VivitFactorisedRecipe
from training.models.conv_transformer import ConvTransformerRecipe
from training.models.hybrid import HybridRecipe
from training.models.keypoint import KeypointRecipe
from training.models.motion import MotionRecipe
from training.models.pose import PoseRecipe
from training.models.vivit.recipe import VivitRecipe

_AnyRecipe: TypeAlias = (
    VivitFactorisedRecipe
    | VivitRecipe
    | HybridRecipe
    | ConvTransformerRecipe
    | KeypointRecipe
    | AttentiveRecipe
    | PoseRecipe
    | MotionRecipe
)

KINDS: Final[tuple[str, ...]] = tuple(recipe.model_fields["kind"].default for recipe in get_args(_AnyRecipe))
"""The values of `model.kind`. The first is the default."""


def _with_kind(section: Any) -> Any:
    return {"kind": KINDS[0], **section} if isinstance(section, dict) else section


ModelRecipe: TypeAlias = Annotated[_AnyRecipe, Field(discriminator="kind"), BeforeValidator(_with_kind)]
"""A recipe's `model` section: its `kind` says which model it describes."""

__all__ = ["KINDS", "BaseModelRecipe", "ClipModel", "ModelRecipe"]
