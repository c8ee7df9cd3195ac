"""The search finds the layers that break a model in FP16 or BF16."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from support.bundles import make_brightness_bundle
from support.onnx_graphs import make_overflowing_bundle

from engines.bundle import Bundle, write_spec
from engines.errors import ParityError
from engines.graphs.explain import Layer, explain_by_layer, find_first_harmful


@pytest.mark.parametrize(("graph", "after"), [("encoder", "Softmax"), ("head", "Erf")])
def test_the_layers_that_overflow_are_found(tmp_path: Path, built_in: Bundle, graph: str, after: str) -> None:
    """The search finds exactly the two layers of a real model that leave FP16's range."""
    bundle = make_overflowing_bundle(tmp_path / "b", built_in, graph, after)
    progress: list[str] = []
    report = explain_by_layer(bundle, "fp16", on_progress=progress.append)
    assert not report.max_dp_before <= 2e-2
    assert report.max_dp_after < 2e-2
    assert report.layers > 100
    assert {(item.graph, item.node) for item in report.sensitive_layers} == {(graph, "blow_up"), (graph, "shrink_back")}
    blow_up = next(item for item in report.sensitive_layers if item.node == "blow_up")
    assert blow_up.largest > 65504
    assert "more than the largest number of the precision, 65504" in blow_up.describe()
    assert len(progress) == 2
    if graph == "head":
        assert explain_by_layer(bundle, "bf16").sensitive_layers == ()  # BF16 has the range of FP32


def test_a_healthy_model_has_no_sensitive_layers(built_in: Bundle) -> None:
    assert explain_by_layer(built_in, "fp16").sensitive_layers == ()


def test_a_model_that_fails_with_most_layers_in_fp32_is_refused(tmp_path: Path) -> None:
    """The golden clip has other logits than the graphs compute, so no choice of layers passes it."""
    bundle = make_brightness_bundle(tmp_path / "b")
    golden = bundle.golden()
    np.savez(bundle.path / "golden.npz", frames=golden.frames, logits=golden.logits + np.float32([0, 9]))
    broken = write_spec(bundle.path, bundle.spec.model_dump(exclude={"files"}))
    with pytest.raises(ParityError, match=r"brightness@1: fails in fp16 .* layers in fp32; use fp32 or bf16"):
        explain_by_layer(broken, "fp16")


@pytest.mark.parametrize("harmful", range(1, 12))
def test_bisection_finds_the_first_harmful_layer(harmful: int) -> None:
    trials = []

    def breaks(lowered: Sequence[Layer]) -> bool:
        trials.append(lowered)
        return ("encoder", f"n{harmful}") in lowered

    layers = [("encoder", f"n{i}") for i in range(1, 12)]
    assert find_first_harmful(layers, breaks) == ("encoder", f"n{harmful}")
    assert len(trials) <= 4
