"""What a bundle's graphs take and give, as its spec promises: checked on each backend's own view of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from engines.bundle import ModelSpec
from engines.errors import BundleError


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorView:
    """A graph's input or output as a backend describes it; a size is None, or below 0, where it is dynamic."""

    shape: Sequence[int | None]
    dtype: str
    """NumPy's name of it."""


def expected_signature(spec: ModelSpec, part: str) -> dict[str, tuple[tuple[int, ...], str]]:
    """(shape without the batch, dtype) of the input and the output of `encoder` or `head`, by name."""
    if part == "encoder":
        return {"frames": (spec.chunk_shape, "uint8"), "features": (spec.feature_shape, "float32")}
    return {
        "features": ((spec.chunks, *spec.feature_shape), "float32"),
        "logits": ((len(spec.labels),), "float32"),
    }


def check_signature(spec: ModelSpec, part: str, path: Path, found: Mapping[str, TensorView]) -> None:
    """Raise `BundleError` where the graph at `path` is not what the spec promises: buffers are sized by the spec."""
    wanted = expected_signature(spec, part)
    for name, (item, dtype) in wanted.items():
        tensor = found.get(name)
        if tensor is None:
            there = ", ".join(found) or "none"
            raise BundleError(f"{path}: has no {name} (it has {there}); export the bundle again")
        if tuple(tensor.shape[1:]) != item or tensor.dtype != dtype:
            is_ = f"{tensor.dtype} {_shown(tensor.shape[1:])}"
            raise BundleError(
                f"{path}: its {name} is {is_}, the spec says {dtype} {_shown(item)}; export the bundle again"
            )
        if tensor.shape[0] is not None and tensor.shape[0] >= 0:
            raise BundleError(
                f"{path}: its {name} has a batch of {tensor.shape[0]}, it must be dynamic; export the bundle again"
            )
    if extra := [name for name in found if name not in wanted]:
        raise BundleError(f"{path}: has {', '.join(extra)}, too, which the spec does not promise; export it again")


def _shown(shape: Sequence[int | None]) -> str:
    return f"({', '.join('?' if size is None or size < 0 else str(size) for size in shape)},)".replace(" ,", " ")
