"""Serving gives the same numbers as PyTorch for a bundle of every kind of model, window by window."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from support.model_kinds import KINDS, parse_recipe, random_model, random_windows

from engines.graphs.lint import check_graph
from engines.opening import open_engine
from training.export import onnx as onnx_export

EXPORTED = sorted(set(KINDS) - {"vivit-uniform", "vivit-small-stem", "keypoint"})
"""The kinds that are exported here. The graphs of the others consist of the same parts, or have tests of their own."""

SLOW = {
    ("hybrid-published", 3),
    ("hybrid-motion", 3),
    ("hybrid", 1),
    ("vivit-encoder", 1),
    ("conv", 1),
    ("motion", 3),  # tests/training/models/test_motion.py compares its graph
    ("pose", 3),  # tests/training/models/test_pose.py compares its graphs
}
"""Cases that take 10 s or more each, or whose graphs other cases cover."""
SMALL_BACKBONE = {"hybrid": "test_efficientnet", "attentive": "test_efficientnet"}
"""timm's own small network for tests, whose export takes a third of MobileNetV3's time; slow cases use MobileNetV3."""


@pytest.mark.parametrize(
    ("kind", "chunks"),
    [
        pytest.param(kind, chunks, marks=pytest.mark.slow if (kind, chunks) in SLOW else ())
        for kind, chunks in [(kind, 3) for kind in EXPORTED]
        + [(kind, 1) for kind in ("vivit-joint", "vivit-encoder", "hybrid", "conv")]
    ],
)
def test_sliding_windows_equal_whole_windows_in_pytorch(
    kind: str, chunks: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A window of one chunk is included, because the exporter could mistake its axis for the dynamic batch axis."""
    monkeypatch.setenv("STREAMCLF_CACHE", str(tmp_path / "cache"))
    section = KINDS[kind] | {"chunks": chunks}
    if kind in SMALL_BACKBONE and chunks > 1:
        section["backbone"] = SMALL_BACKBONE[kind]
    model, recipe = random_model(section, labels=3), parse_recipe(section)
    film = random_windows(section, count=12 // chunks, seed=2).flatten(0, 1)  # (12, t, H, W, 3)
    fields = {
        "name": kind, "version": "1", "labels": ("a", "b", "c"), "height": recipe.height, "width": recipe.width,
        "fps": 10, "frames_per_chunk": recipe.frames_per_chunk, "chunks": recipe.chunks,
    }  # fmt: skip
    bundle = onnx_export.export_bundle(
        model, fields=fields, golden=film[: recipe.chunks].numpy(), card="# x\n", path=tmp_path / "bundle"
    )
    for path in (bundle.encoder_path, bundle.head_path):
        graph = onnx.load(path)
        assert [item.version for item in graph.opset_import if not item.domain] == [17]
        constants = {tensor.name for tensor in graph.graph.initializer}
        shapes = [node.input[1] for node in graph.graph.node if node.op_type == "Reshape"]
        assert set(shapes) <= constants, "a shape is computed at run time"
        notes = check_graph(path.read_bytes(), name=path.name, profile="trt86")
        assert not [note for note in notes if "scale" in note.text]

    engine = open_engine(bundle, backend="onnxruntime", precision="fp32", max_batch=4, bank_slots=len(film))
    try:
        for start in range(0, len(film), 4):
            engine.encode(film[start : start + 4].numpy(), np.arange(start, start + 4, dtype=np.int32))
        ends = range(recipe.chunks, len(film) + 1)
        actual = np.concatenate(
            [engine.classify(np.arange(end - recipe.chunks, end, dtype=np.int32)[None]) for end in ends]
        )
    finally:
        engine.close()
    with torch.inference_mode():
        whole = torch.stack([film[end - recipe.chunks : end] for end in ends])
        expected = model(whole).softmax(-1).numpy()
    assert len(actual) == 13 - chunks
    assert expected.std(axis=0).max() > 1e-3  # a model with constant outputs would pass any comparison
    assert np.abs(actual - expected).max() <= 1e-4
