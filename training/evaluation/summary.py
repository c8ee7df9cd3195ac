"""Summarise the model that a recipe builds, before anything is trained or downloaded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from training.data.shape import Shape
from training.errors import DataError, RecipeError
from training.models import ClipModel
from training.models.flops import ModelCost, compute_cost
from training.recipe import Recipe


def summarise(recipe: Recipe, *, labels: int | None = None) -> dict[str, Any]:
    """Count parameters, FLOPs, fp32 megabytes and the window of the recipe's model.

    FLOPs are counted as publications do (see `training.models.flops`). `window_flops` is the cost of a window whose
    chunks are all encoded. `served_flops` is the cost of one more prediction in serving: one encode and one head,
    whose last layers compute only the outputs that are read. `whole_window_flops` is the cost of the same prediction if
    all chunks are encoded again; divided by `served_flops` it says what encode-once saves. `labels` is the number of
    classes, by default that of the recipe's data. Where the recipe does not name the classes and its data are missing,
    two classes are assumed and `labels_known` is false.
    """
    model, known = recipe.model, True
    if labels is None:
        try:
            labels = len(recipe.data.label_names())
        except (DataError, RecipeError):
            labels, known = 2, False
    classes = labels

    def fresh() -> ClipModel:
        return model.without_weights().build(labels=classes)

    patch = getattr(model, "patch", None)
    return {
        "name": recipe.name,
        "kind": model.kind,
        "labels": classes,
        "labels_known": known,
        **({"patches": (model.height // patch) * (model.width // patch)} if patch else {}),
        **summarise_network(fresh, recipe.shape),
    }


def summarise_network(build: Callable[[], ClipModel], shape: Shape) -> dict[str, Any]:
    """Return the part of `summarise` that depends on the network and the shape of its windows alone."""

    def counted(*, whole: bool) -> ModelCost:
        return compute_cost(
            build,
            chunks=shape.chunks,
            frames_per_chunk=shape.frames_per_chunk,
            height=shape.height,
            width=shape.width,
            whole=whole,
        )

    published, served = counted(whole=True), counted(whole=False)
    return {
        "parameters": published.parameters,
        "encoder_parameters": published.encoder_parameters,
        "head_parameters": published.head_parameters,
        "encoder_flops": published.encoder_flops,
        "head_flops": published.head_flops,
        "window_flops": published.window_flops,
        "served_flops": served.encoder_flops + served.head_flops,
        "whole_window_flops": served.window_flops,
        "megabytes_fp32": round(published.parameters * 4 / 1e6, 3),
        "input": [shape.frames_per_chunk, shape.height, shape.width, 3],
        "feature": list(published.feature),
        "window_s": shape.chunks * shape.frames_per_chunk / shape.fps,
        "hop_s": shape.frames_per_chunk / shape.fps,
    }
