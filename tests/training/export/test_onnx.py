"""Exported graphs compute the same outputs as the PyTorch model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from engines.bundle import load_bundle
from engines.opening import open_engine
from training.errors import RunError
from training.export import onnx as onnx_export
from training.models.compact_vivit import FactorisedViViT

FIELDS = {
    "name": "tiny",
    "version": "1",
    "labels": ("a", "b", "c"),
    "height": 32,
    "width": 48,
    "resize": "stretch",
    "fps": 10.0,
    "frames_per_chunk": 2,
    "chunks": 3,
}


def new_model() -> FactorisedViViT:
    """Build a small model with new random weights."""
    return FactorisedViViT(
        labels=3,
        height=32,
        width=48,
        frames_per_chunk=2,
        chunks=3,
        patch=16,
        stem=[(4, 8)],
        dim=16,
        heads=2,
        spatial_layers=2,
        temporal_layers=2,
        mlp_ratio=2.0,
    ).eval()


@pytest.fixture(scope="module")
def model() -> FactorisedViViT:
    torch.manual_seed(3)
    return new_model()


@pytest.fixture(scope="module")
def golden() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (3, 2, 32, 48, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def bundle(model, golden, tmp_path_factory):
    path = tmp_path_factory.mktemp("export") / "tiny"
    return onnx_export.export_bundle(model, fields=FIELDS, golden=golden, card="# tiny\n", path=path)


def test_bundle_is_complete_and_has_pytorchs_logits(bundle, model, golden):
    loaded = load_bundle(bundle.path)
    assert loaded.spec.feature_shape == (16,)
    written = loaded.golden()
    assert np.array_equal(written.frames, golden)
    with torch.inference_mode():
        assert np.allclose(written.logits, model(torch.from_numpy(golden)[None])[0].numpy(), atol=1e-6)


def test_graphs_have_opset_17_and_one_dynamic_axis(bundle):
    for path in (bundle.encoder_path, bundle.head_path):
        graph = onnx.load(path)
        assert [(item.domain, item.version) for item in graph.opset_import if not item.domain] == [("", 17)]
        (tensor,) = graph.graph.input
        assert [bool(dim.dim_param) for dim in tensor.type.tensor_type.shape.dim][1:].count(True) == 0


def test_rows_do_not_depend_on_the_batch_size(bundle, golden):
    session = onnxruntime.InferenceSession(bundle.encoder_path, providers=["CPUExecutionProvider"])
    (together,) = session.run(None, {"frames": golden})
    separately = np.concatenate([session.run(None, {"frames": chunk[None]})[0] for chunk in golden])
    assert np.allclose(together, separately, atol=1e-5)


def test_engine_reproduces_pytorch_chunk_by_chunk(bundle, model, golden):
    engine = open_engine(load_bundle(bundle.path), backend="onnxruntime", precision="fp32")
    try:
        for slot, chunk in enumerate(golden):
            engine.encode(chunk[None], np.array([slot], np.int32))
        probabilities = engine.classify(np.array([[0, 1, 2]], np.int32))[0]
    finally:
        engine.close()
    with torch.inference_mode():
        expected = model(torch.from_numpy(golden)[None]).softmax(dim=-1)[0].numpy()
    assert np.abs(probabilities - expected).max() < 1e-4


def test_graph_of_other_weights_is_refused(bundle, model, golden):
    other = new_model()
    assert onnx_export.check_graph(model.encoder, torch.from_numpy(golden), bundle.encoder_path) < onnx_export.TOLERANCE
    with pytest.raises(RunError, match="ONNX Runtime differs from PyTorch by"):
        onnx_export.check_graph(other.encoder, torch.from_numpy(golden), bundle.encoder_path)


def test_folder_that_is_no_bundle_is_not_changed(model, golden, tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(RunError, match="not a bundle"):
        onnx_export.export_bundle(model, fields=FIELDS, golden=golden, card="", path=tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "mine"


def test_weights_too_large_for_one_onnx_file_are_refused(tmp_path: Path) -> None:
    with torch.device("meta"):
        large = torch.nn.Linear(30_000, 20_000)
    with pytest.raises(RunError, match=r"2.4 GB of weights, at most 2.1"):
        onnx_export.write_graph(large, torch.zeros(2, 30_000), tmp_path / "head.onnx", "features", "logits")
    assert list(tmp_path.iterdir()) == []


def test_reductions_are_rewritten_for_opset_17(tmp_path: Path) -> None:
    class Reductions(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.mean(dim=(1, 2)) + x.amax(dim=1).amin(dim=1)

    path = tmp_path / "reduces.onnx"
    onnx_export.write_graph(Reductions(), torch.randn(2, 4, 3), path, "features", "logits")
    reductions = [node for node in onnx.load(path).graph.node if node.op_type.startswith("Reduce")]
    assert len(reductions) == 3
    assert all(len(node.input) == 1 for node in reductions)
    assert onnx_export.check_graph(Reductions(), torch.randn(5, 4, 3), path) < onnx_export.TOLERANCE
