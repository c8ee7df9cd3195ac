"""Every built-in architecture, in a small size: its graphs for each TensorRT generation, and its engine on the double.

`pytest -m slow tests/engines/test_architectures.py` runs the same for the full sizes, ViViT-B/16x2 among them.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import resource
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from support.gpu_double import double_platform
from support.gpu_models import MODELS, exact_bundle, gpu_bundle

import engines.backends.tensorrt
import engines.opening
import training.export.onnx
from engines.bundle import Bundle
from engines.graphs.lint import lint
from engines.graphs.operators import OPSETS, PROFILES
from engines.graphs.profiles import Profile, prepare_graph
from engines.graphs.shapes import rewrite_shapes
from engines.graphs.surgery import opset_of
from engines.opening import open_engine
from engines.parity import TOLERANCE, check_parity

PART, BYTES = "Shape with start or end", "Shape of a uint8 input"
MISREAD: dict[str, set[str]] = {
    "vivit-encoder": {PART, BYTES},
    "hybrid-densenet121": {PART, BYTES},
    "conv-transformer": {PART},
    "vivit-joint": {PART},
    "vivit-self": set(),
    "vivit-dot": set(),
}
"""Errors of TensorRT 8.6 in the graphs that torch exports, before their shapes are rewritten."""
ERRORS: dict[str, dict[str, set[str]]] = {}
"""By model: what the lint finds in its graphs before the export rewrites their shapes."""


# DenseNet121 is a large network even at this size: it would take half a minute of the whole suite.
@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=pytest.mark.slow if "densenet" in name else ()) for name in MODELS],
)
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    with recorded_errors() as errors:
        ERRORS[request.param] = errors
        return gpu_bundle(tmp_path_factory.mktemp("bundles"), request.param, small=True)


def check_profiles(bundle: Bundle, profiles: tuple[Profile, ...], precision: str, *, items: int) -> None:
    """Check that each prepared graph is valid and computes the same as the exported one in ONNX Runtime."""
    frames = bundle.golden().frames
    features = run_in_pairs(bundle.encoder_path.read_bytes(), "frames", frames)
    for path, name, array in (
        (bundle.graphs(precision)[0], "frames", frames[:items]),
        (bundle.graphs(precision)[1], "features", features[None]),
    ):
        data = path.read_bytes()
        expected = run_in_pairs(data, name, array)
        for profile in profiles:
            prepared = prepare_graph(data, name=path.name, profile=profile, precision=precision)  # also lints
            model = onnx.load_model_from_string(prepared.onnx)
            onnx.checker.check_model(model, full_check=True)
            assert opset_of(model) <= OPSETS[profile]
            error = np.abs(run_in_pairs(prepared.onnx, name, array) - expected).max() / np.abs(expected).max()
            # A sum in another order, or in FP16, lets some values round to the other neighbour in INT8. The limit for
            # typed graphs is the error that INT8 itself has: 2 to 4 % of the largest output.
            limit = {"fp32": 1e-5, "int8": 6e-2 if prepared.strongly_typed else 2e-2, "fp16": 2e-2}[precision]
            assert error < limit, f"{path.name} for {profile} in {precision}: {error:.1e}"


def run_in_pairs(data: bytes, name: str, array: np.ndarray) -> np.ndarray:
    """Run the graph on two items at a time, which bounds the memory of the full sizes."""
    settings = ort.SessionOptions()
    settings.add_session_config_entry("session.x64quantprecision", "1")  # no saturation without VNNI
    settings.log_severity_level = 3
    session = ort.InferenceSession(data, settings, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, {name: array[i : i + 2]})[0] for i in range(0, len(array), 2)])


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_the_prepared_graphs_of_every_generation_compute_the_same(bundle: Bundle, precision: str) -> None:
    check_profiles(bundle, PROFILES, precision, items=4)


@pytest.mark.parametrize("version", ["8.5.3.1", "11.4.0"])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_the_engine_on_the_double_passes_the_golden_clip(
    bundle: Bundle, version: str, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This covers the host side, the profile and the bank with features of every shape."""
    monkeypatch.setattr(
        engines.backends.tensorrt, "load_platform", lambda _: double_platform(version=version, memory_bytes=1 << 32)
    )
    monkeypatch.setattr(engines.opening, "missing_libraries", lambda backend: [])
    engine = open_engine(bundle, backend="tensorrt", precision=precision, max_batch=3)  # type: ignore[arg-type]
    assert check_parity(engine, bundle.golden()).max_dp <= TOLERANCE[precision]
    engine.close()


def lint_errors(graph: onnx.ModelProto) -> dict[str, list[str]]:
    """Return what each generation refuses in a graph, as far as `lint` knows."""
    return {
        profile: [each.text for each in lint(graph, profile) if each.level == "error"]  # type: ignore[arg-type]
        for profile in PROFILES
    }


@contextlib.contextmanager
def recorded_errors() -> Iterator[dict[str, set[str]]]:
    """Record what each generation would refuse in the exported graphs, without the rewriting of their shapes."""
    errors: dict[str, set[str]] = {profile: set() for profile in PROFILES}

    def lint_and_rewrite(graph: onnx.ModelProto) -> None:
        for profile, texts in lint_errors(graph).items():
            errors[profile] |= {text.partition(" (")[0] for text in texts}
        rewrite_shapes(graph)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training.export.onnx, "rewrite_shapes", lint_and_rewrite)
        yield errors


def check_errors(name: str, before: dict[str, set[str]], bundle: Bundle) -> None:
    """Check that the lint finds the shapes that old parsers misread in an old export, and nothing in a new one."""
    assert before["trt86"] == MISREAD[name]
    assert before["trt10"] == before["trt11"] == MISREAD[name] & {BYTES}
    assert before["trt86"] < before["trt85"]  # which also refuses opset 17
    for path in (bundle.encoder_path, bundle.head_path):
        errors = lint_errors(onnx.load(path))
        assert errors["trt86"] == errors["trt10"] == errors["trt11"] == []
        assert all("LayerNormalization" in text or text.startswith("opset") for text in errors["trt85"])


def export_and_prepare(name: str, folder: Path, caplog: pytest.LogCaptureFixture) -> dict[str, Any]:
    """Export a model in full size, and prepare and lint its graphs for each generation; return sizes and times."""
    caplog.set_level(logging.INFO, "engine")
    began = time.monotonic()
    with recorded_errors() as before:
        bundle = exact_bundle(folder / name, name)
    figures: dict[str, Any] = {"model": name, "export_s": round(time.monotonic() - began, 1)}
    check_errors(name, before, bundle)
    for path in (bundle.encoder_path, bundle.head_path):
        data = path.read_bytes()
        figures[f"{path.stem}_mb"] = round(len(data) / 1e6, 1)
        for profile in PROFILES:
            for precision in ("fp32", "fp16"):
                caplog.clear()
                began = time.monotonic()
                prepared = prepare_graph(data, name=path.name, profile=profile, precision=precision)  # checks and lints
                figures[f"{path.stem}/{profile}/{precision}"] = {
                    "s": round(time.monotonic() - began, 1),
                    "mb": round(len(prepared.onnx) / 1e6),
                    "notes": [record.getMessage() for record in caplog.records if record.name == "engine"],
                }
    figures["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return figures


def test_the_lint_finds_misread_shapes_in_an_old_export_and_nothing_in_a_new_one(bundle: Bundle) -> None:
    check_errors(bundle.spec.name, ERRORS[bundle.spec.name], bundle)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", list(MODELS))
def test_a_full_export_has_nothing_that_a_generation_refuses(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The test prints its figures with `-s`. It takes minutes, and up to 8 GB of memory."""
    print(json.dumps(export_and_prepare(name, tmp_path, caplog)))


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("name", list(MODELS))
def test_the_full_sizes_compute_the_same(name: str, precision: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The test takes minutes, and 4 GB of memory or more.

    With $STREAMCLF_GPU_BUNDLES it uses the bundles that `tests/gpu/bench.py` made there.
    """
    folder = os.environ.get("STREAMCLF_GPU_BUNDLES") or str(tmp_path_factory.getbasetemp() / "full")
    check_profiles(gpu_bundle(Path(folder), name), PROFILES, precision, items=2)
