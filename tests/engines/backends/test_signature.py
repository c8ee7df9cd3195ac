"""A bundle whose graphs differ from its spec is refused by every backend with the same error."""

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from support.bundles import make_brightness_bundle

from engines.backends.names import Backend
from engines.bundle import write_spec
from engines.errors import BundleError
from engines.opening import open_engine


def fix_batch(path: Path) -> None:
    model = onnx.load(path / "head.onnx")
    for value in (model.graph.input[0], model.graph.output[0]):
        dim = value.type.tensor_type.shape.dim[0]
        dim.Clear()
        dim.dim_value = 1
    onnx.save(model, path / "head.onnx")


def swap_graphs(path: Path) -> None:
    encoder = (path / "encoder.onnx").read_bytes()
    (path / "encoder.onnx").write_bytes((path / "head.onnx").read_bytes())
    (path / "head.onnx").write_bytes(encoder)


@pytest.mark.parametrize(
    ("fields", "change", "message"),
    [
        ({"feature_shape": (4,)}, None, r"encoder\.onnx: its features is float32 \(3,\), the spec says float32 \(4,\)"),
        ({"labels": ("a", "b", "c")}, None, r"head\.onnx: its logits is float32 \(2,\), the spec says float32 \(3,\)"),
        ({}, swap_graphs, r"encoder\.onnx: has no frames \(it has features, logits\)"),
        ({}, fix_batch, r"head\.onnx: its features has a fixed batch of 1|input features is \[1, 4, 3\]"),
    ],
)
def test_graphs_that_differ_from_the_spec_are_refused(
    tmp_path: Path, backend: Backend, fields: dict[str, object], change: Callable[[Path], None] | None, message: str
) -> None:
    """Without this check, backends would fail later or not at all, because the spec gives the sizes of buffers."""
    bundle = make_brightness_bundle(tmp_path / "broken")
    if change is not None:
        change(bundle.path)
    changed = write_spec(bundle.path, {**bundle.spec.model_dump(exclude={"files"}), **fields})
    with pytest.raises(BundleError, match=message):
        open_engine(changed, backend=backend, precision="fp32")
