"""Every kind of model becomes a bundle that serving runs window by window to the same numbers."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from support.model_kinds import KINDS, parse_recipe, random_model, random_windows

from engines.graphs.lint import check_graph
from engines.opening import open_engine
from training.errors import RunError
from training.evaluation.summary import summarise
from training.export import onnx as onnx_export

EXPORTED = sorted(set(KINDS) - {"vivit-uniform", "vivit-small-stem", "keypoint"})
"""The others' graphs are made of the same parts, or have tests of their own."""


LONG = {("hybrid-published", 3), ("hybrid-motion", 3), ("hybrid", 1), ("vivit-encoder", 1)}


@pytest.mark.parametrize(
    ("kind", "chunks"),
    [
        # Those that are large even in small, and whose like is among the others, take minutes together.
        pytest.param(kind, chunks, marks=pytest.mark.slow if (kind, chunks) in LONG else ())
        for kind, chunks in [(kind, 3) for kind in EXPORTED]
        + [(kind, 1) for kind in ("vivit-joint", "vivit-encoder", "hybrid", "conv")]
    ],
)
def test_sliding_windows_equal_whole_windows_through_pytorch(kind, chunks, tmp_path, monkeypatch):
    """A window of one chunk, too: it is the batch that may be of any size, and it must not be taken for it."""
    monkeypatch.setenv("STREAMCLF_CACHE", str(tmp_path / "cache"))
    words = KINDS[kind] | {"chunks": chunks}
    model, recipe = random_model(words, labels=3), parse_recipe(words)
    film = random_windows(words, count=12 // chunks, seed=2).flatten(0, 1)  # (12, t, H, W, 3)
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
        given = {tensor.name for tensor in graph.graph.initializer}
        shapes = [node.input[1] for node in graph.graph.node if node.op_type == "Reshape"]
        assert set(shapes) <= given, "a shape is computed while it runs"
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
    assert expected.std(axis=0).max() > 1e-3  # a model that always says the same would agree with anything
    assert np.abs(actual - expected).max() <= 1e-4


def test_weights_beyond_one_onnx_file_are_refused_before_anything_is_written(tmp_path):
    with torch.device("meta"):
        vast = torch.nn.Linear(30_000, 20_000)
    with pytest.raises(RunError, match=r"2.4 GB of weights, at most 2.1"):
        onnx_export.write_graph(vast, torch.zeros(2, 30_000), tmp_path / "head.onnx", "features", "logits")
    assert list(tmp_path.iterdir()) == []


def test_reductions_are_written_as_opset_17_says_them(tmp_path):
    class Reduces(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.mean(dim=(1, 2)) + x.amax(dim=1).amin(dim=1)

    path = tmp_path / "reduces.onnx"
    onnx_export.write_graph(Reduces(), torch.randn(2, 4, 3), path, "features", "logits")
    reductions = [node for node in onnx.load(path).graph.node if node.op_type.startswith("Reduce")]
    assert len(reductions) == 3
    assert all(len(node.input) == 1 for node in reductions)
    assert onnx_export.check_graph(Reduces(), torch.randn(5, 4, 3), path) < onnx_export.TOLERANCE


def test_summary_counts_what_is_built(tiny):
    """`tiny` is camera-events' kind; its words are those that came before, and the new ones."""
    told = summarise(tiny)
    assert told["parameters"] == told["encoder_parameters"] + told["head_parameters"]
    assert told["window_flops"] == told["encoder_flops"] * tiny.model.chunks + told["head_flops"]
    assert 0 < told["served_flops"] < told["encoder_flops"] + told["head_flops"]
    assert (told["patches"], told["input"], told["feature"], told["labels_known"]) == (6, [2, 32, 48, 3], [16], True)
    d, places, hidden = 16, 7, 32
    layer = places * (4 * d * d + 2 * d * hidden) + 2 * places**2 * d
    stem = (8 * 12) * 8 * (6 * 4 * 4) + (2 * 3) * d * (8 * 4 * 4)
    assert told["encoder_flops"] == stem + 2 * layer
