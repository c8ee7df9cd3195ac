"""Check that the inputs and outputs of a bundle's graphs, as a backend reports them, match its spec."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from engines.bundle import ModelSpec
from engines.errors import BundleError


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorView:
    """A graph's input or output as a backend describes it; a dynamic size is None or negative."""

    shape: Sequence[int | None]
    dtype: str
    """NumPy's name of the element type."""


def expected_signature(spec: ModelSpec, graph: str) -> dict[str, tuple[tuple[int, ...], str]]:
    """Map the input and the output of the graph `encoder` or `head` to (shape without the batch, dtype)."""
    if graph == "encoder":
        return {"frames": (spec.chunk_shape, "uint8"), "features": (spec.feature_shape, "float32")}
    return {
        "features": ((spec.chunks, *spec.feature_shape), "float32"),
        "logits": ((len(spec.labels),), "float32"),
    }


def check_signature(spec: ModelSpec, graph: str, path: Path, found: Mapping[str, TensorView]) -> None:
    """Raise `BundleError` if the graph at `path` differs from the spec, which gives the sizes of all buffers."""
    expected = expected_signature(spec, graph)
    for name, (shape, dtype) in expected.items():
        tensor = found.get(name)
        if tensor is None:
            there = ", ".join(found) or "none"
            raise BundleError(f"{path}: has no {name} (it has {there}); export the bundle again")
        if tuple(tensor.shape[1:]) != shape or tensor.dtype != dtype:
            actual = f"{tensor.dtype} {_describe_shape(tensor.shape[1:])}"
            raise BundleError(
                f"{path}: its {name} is {actual}, the spec says {dtype} {_describe_shape(shape)}; "
                "export the bundle again"
            )
        if tensor.shape[0] is not None and tensor.shape[0] >= 0:
            raise BundleError(
                f"{path}: its {name} has a fixed batch of {tensor.shape[0]}; its first axis must be dynamic: "
                "export the bundle again"
            )
    if extra := [name for name in found if name not in expected]:
        raise BundleError(f"{path}: has also {', '.join(extra)}, which the spec does not list; export the bundle again")


def _describe_shape(shape: Sequence[int | None]) -> str:
    return f"({', '.join('?' if size is None or size < 0 else str(size) for size in shape)},)".replace(" ,", " ")
