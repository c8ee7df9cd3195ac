"""The limits of a bundle. Training checks them before it begins, so that its result can be exported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from pydantic import ValidationError
from torch import nn

from engines.bundle import MAX_SPEC_BYTES, REQUIRED_FILES, ModelSpec
from training.errors import DataError, RecipeError, RunError
from training.recipe import Recipe

MAX_GRAPH_BYTES = (1 << 31) - (1 << 24)
"""Protobuf's limit of 2 GiB, less room for nodes and names."""
_FILES_AND_SHAPE = {"feature_shape": (1,), "files": dict.fromkeys(REQUIRED_FILES, "0" * 64)}
"""Stand-ins for the fields of a spec that are known only after the export."""


def spec_fields(
    recipe: Recipe,
    labels: Sequence[str],
    metrics: Mapping[str, float],
    thresholds: Mapping[str, float] = MappingProxyType({}),
) -> dict[str, Any]:
    """Return the fields of a bundle's `ModelSpec` that a recipe and its data determine."""
    return {
        "name": recipe.name,
        "version": recipe.version,
        "labels": tuple(labels),
        "height": recipe.model.height,
        "width": recipe.model.width,
        "resize": recipe.resize,
        "fps": recipe.fps,
        "frames_per_chunk": recipe.model.frames_per_chunk,
        "chunks": recipe.model.chunks,
        "short_clips": recipe.windows.short_clips,
        "whole_clips": "stretch" if recipe.windows.fit == "stretch" else "windows",
        "metrics": {name: round(float(value), 5) for name, value in metrics.items()},
        "activation": recipe.activation,
        "thresholds": dict(thresholds),
        "decode": recipe.decode,
        "hides_scene": recipe.hides_scene,
    }


def check_exportable(recipe: Recipe, labels: Sequence[str]) -> None:
    """Raise `DataError` for labels, and `RecipeError` for values of a recipe, that no bundle can have."""
    try:
        spec = ModelSpec.model_validate({**spec_fields(recipe, labels, {}), **_FILES_AND_SHAPE})
    except ValidationError as error:
        first = error.errors()[0]
        where, reason = first["loc"], str(first["msg"]).removeprefix("Value error, ")
        if where[:1] == ("labels",) and len(where) > 1:
            label = labels[int(where[1])]
            raise DataError(
                f"label {label[:80]!r} ({len(label)} characters): {reason}; shorten it, or a bundle cannot hold it"
            ) from error
        if where[:1] == ("labels",):
            raise DataError(f"{len(labels)} labels: {reason}; a bundle could not hold them") from error
        name = ".".join(map(str, where)) or "recipe"
        raise RecipeError(f"{name}: {reason}; a bundle could not hold it") from error
    size = len(spec.model_dump_json().encode())
    if size > MAX_SPEC_BYTES // 2:  # the file is indented, and also has the figures
        raise DataError(
            f"{len(labels)} labels: {size} bytes of text, at most {MAX_SPEC_BYTES // 2} in a bundle; shorten them"
        )


def check_graph_size(module: nn.Module, name: str) -> None:
    """Raise `RunError` where the module called `name` has too many weights for one ONNX file."""
    size = sum(tensor.numel() * tensor.element_size() for tensor in (*module.parameters(), *module.buffers()))
    if size > MAX_GRAPH_BYTES:
        raise RunError(
            f"{name}: {size / 1e9:.1f} GB of weights, at most {MAX_GRAPH_BYTES / 1e9:.1f} in one ONNX file; "
            "choose a smaller model"
        )
