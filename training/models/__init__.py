"""Models, one per file; each gives an `encoder` and a `head`, and has its recipe beside it."""

from __future__ import annotations

from typing import TypeAlias

from training.models.base import ClipModel
from training.models.vivit_factorised import FactorisedViViT, VivitFactorisedRecipe

ModelRecipe: TypeAlias = VivitFactorisedRecipe
"""A recipe's `model` section, told apart by `kind`."""


def build(recipe: ModelRecipe, *, labels: int) -> ClipModel:
    """The recipe's model with fresh weights, for `labels` classes."""
    words = recipe.model_dump(exclude={"kind"})
    return FactorisedViViT(labels=labels, **words)


__all__ = ["ClipModel", "ModelRecipe", "build"]
