from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import openvino
import pytest
from support.bundles import make_brightness_bundle

from engines.bundle import ModelSpec
from engines.graphs.lint import check_graph
from engines.graphs.operators import OPSETS
from streamclf.teach.head import FittedHead, fit_head
from streamclf.teach.head_graph import write_head
from streamclf.teach.novelty import MEASURES, Measure, fit_novelty
from streamclf.teach.pooling import POOLINGS, PooledPart
from streamclf.teach.taught_head import Calibration, TaughtHead

pytest.importorskip("sklearn")
CHUNKS, LABELS = 4, 3
PARTS = {"first": 2, "second": 4}


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    made = make_brightness_bundle(tmp_path_factory.mktemp("bundle") / "it", chunks=CHUNKS).spec
    return made.model_copy(update={"feature_shape": (2, 3)})


def make_head(pooling: str, random: np.random.Generator) -> FittedHead:
    parts = tuple(
        PooledPart(name=name, start=start, stop=stop, chunks=CHUNKS, poolings=POOLINGS[pooling])
        for name, start, stop in (("first", 0, 2), ("second", 2, 6))
    )
    windows = random.normal(size=(12, CHUNKS, 6)).astype(np.float32)
    fitted = fit_head(windows, np.arange(12) % LABELS, np.arange(12), PARTS, seed=0)
    inputs = sum(part.pool(windows).shape[1] for part in parts)
    return dataclasses.replace(
        fitted,
        parts=parts,
        weight=random.normal(size=(inputs, LABELS)).astype(np.float32),
        bias=random.normal(size=LABELS).astype(np.float32),
    )


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("none", [None, 2])
def test_the_graph_computes_what_numpy_computes(
    spec: ModelSpec, pooling: str, measure: Measure, none: int | None
) -> None:
    check(spec, pooling, measure, none, has_novelty=True)


@pytest.mark.parametrize("none", [None, 2])
def test_a_head_without_none_of_these(spec: ModelSpec, none: int | None) -> None:
    check(spec, "mean, peak", MEASURES[0], none, has_novelty=False)


def check(spec: ModelSpec, pooling: str, measure: Measure, none: int | None, *, has_novelty: bool) -> None:
    random = np.random.default_rng(7)
    windows = random.normal(size=(30, CHUNKS, 6)).astype(np.float32)
    novelty = fit_novelty(windows[:12], np.arange(12) % LABELS, PARTS, measure, seed=0)
    limit = float(np.median(novelty.score(windows[12:])))
    taught = TaughtHead(
        head=make_head(pooling, random),
        novelty=novelty,
        calibration=Calibration(temperature=1.7, has_novelty=has_novelty, limit=limit, slope=3.0),
        none=none,
    )
    count = LABELS if none is not None or not has_novelty else LABELS + 1
    data = write_head(taught, spec, count)
    core = openvino.Core()
    model = core.compile_model(core.read_model(data), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    actual = model(windows.reshape(30, CHUNKS, 2, 3))[0]
    expected = taught.logits(windows)
    assert expected.shape == (30, count)
    np.testing.assert_allclose(actual, expected, atol=1e-4, rtol=1e-4)
    for profile in OPSETS:
        if profile == "trt85":  # opset 17, as all bundles have, is above its own; `prepare_graph` lowers it
            continue
        check_graph(data, name="head.onnx", profile=profile)


def test_logits_of_none_rise_below_the_limit(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    windows = random.normal(size=(12, CHUNKS, 6)).astype(np.float32)
    novelty = fit_novelty(windows, np.arange(12) % LABELS, PARTS, ("examples", "distance"), seed=0)
    scores = novelty.score(windows)
    taught = TaughtHead(
        head=make_head("mean", random),
        novelty=novelty,
        calibration=Calibration(temperature=1.0, has_novelty=True, limit=float(scores.min()) - 0.1, slope=5.0),
        none=None,
    )
    assert (taught.logits(windows).argmax(axis=1) < LABELS).all(), "these are the examples themselves"
    assert (taught.logits(windows + 50).argmax(axis=1) == LABELS).all()
