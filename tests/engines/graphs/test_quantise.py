"""INT8 bundles: every backend runs them, and nodes that lose too much stay in fp32."""

import logging
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper
from support.bundles import make_brightness_bundle
from support.onnx_graphs import make_graph

from engines.backends.names import Backend
from engines.bundle import INT8_ENCODER_FILE, Bundle
from engines.errors import BundleError
from engines.graphs.operators import PROFILES
from engines.graphs.profiles import Profile, prepare_graph
from engines.graphs.qdq import quantised_nodes
from engines.graphs.quantise import load_windows, quantise_bundle, quantise_graph
from engines.opening import open_engine
from engines.parity import TOLERANCE

needs_exact_int8 = pytest.mark.skipif(
    "vnni" not in Path("/proc/cpuinfo").read_text(),
    reason="without VNNI, sums of ONNX Runtime's 8-bit products saturate at 16 bits",
)


@pytest.fixture(scope="module")
def quantised(tmp_path_factory: pytest.TempPathFactory, built_in: Bundle) -> Bundle:
    """The built-in model in INT8, calibrated with three copies of its golden clip with noise."""
    frames = built_in.golden().frames
    random = np.random.default_rng(0)
    noise = (0, 9, 40)
    windows = np.stack([np.clip(frames + random.integers(-s, s + 1, frames.shape), 0, 255) for s in noise])
    return quantise_bundle(built_in, windows.astype(np.uint8), tmp_path_factory.mktemp("int8") / "b")


def test_every_backend_opens_the_same_quantised_graphs(
    quantised: Bundle, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Noisy copies of one window are a poor calibration set, so the tolerance is wider here."""
    monkeypatch.setitem(TOLERANCE, "int8", 0.15)
    engine = open_engine(quantised, backend=backend, precision="int8", max_batch=8)
    assert engine.precision == "int8"
    engine.close()


@pytest.mark.parametrize("profile", PROFILES)
def test_every_tensorrt_profile_accepts_the_quantised_graph(quantised: Bundle, profile: Profile) -> None:
    data = (quantised.path / INT8_ENCODER_FILE).read_bytes()
    prepared = prepare_graph(data, name="encoder", profile=profile, precision="int8")
    kinds = [node.op_type for node in onnx.load_model_from_string(prepared.onnx).graph.node]
    assert kinds.count("QuantizeLinear") > 10


def test_quantising_does_not_change_the_exact_graphs(quantised: Bundle, built_in: Bundle) -> None:
    for name, digest in built_in.spec.files.items():
        assert quantised.spec.files[name] == digest


def test_quantising_into_an_existing_folder_is_refused(quantised: Bundle, built_in: Bundle) -> None:
    with pytest.raises(BundleError, match="exists already"):
        quantise_bundle(built_in, built_in.golden().frames[None], quantised.path)


@needs_exact_int8
def test_the_last_batch_of_samples_may_be_smaller(tmp_path: Path) -> None:
    """Nine samples make one batch of eight and one batch of one."""
    random = np.random.default_rng(0)
    weight = random.standard_normal((8, 8)).astype(np.float32)
    onnx.save(make_graph([helper.make_node("MatMul", ["x", "w"], ["y"], name="m")], w=weight), tmp_path / "g.onnx")
    samples = random.standard_normal((9, 8)).astype(np.float32)
    quantise_graph(tmp_path / "g.onnx", tmp_path / "q.onnx", "x", samples, 0.04)
    assert quantised_nodes(onnx.load(tmp_path / "q.onnx")) == ["m"]


def test_a_graph_without_operators_for_int8_stays_in_fp32(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    bundle = make_brightness_bundle(tmp_path / "exact")
    made = quantise_bundle(bundle, bundle.golden().frames[None], tmp_path / "int8")
    assert made.spec.files[INT8_ENCODER_FILE] == made.spec.files["encoder.onnx"]
    assert "head.onnx stays in fp32: it has no operator that is quantised" in caplog.text
    open_engine(made, backend="onnxruntime", precision="int8").close()


@needs_exact_int8
def test_a_node_that_ruins_the_output_stays_in_fp32(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """One row of weights is 5000 times the others, so its scale rounds the others to zero.

    The two products behind it lose little in INT8.
    """
    caplog.set_level(logging.INFO, "engine")
    random = np.random.default_rng(0)
    wide = random.standard_normal((8, 8)).astype(np.float32)
    wide[0] *= 5000.0
    nodes = [
        helper.make_node("MatMul", ["x", "wide"], ["m"], name="wide_product"),
        helper.make_node("MatMul", ["m", "small"], ["n"], name="first"),
        helper.make_node("MatMul", ["n", "small"], ["y"], name="second"),
    ]
    small = np.linalg.qr(random.standard_normal((8, 8)))[0].astype(np.float32)
    model = make_graph(nodes, wide=wide, small=small)
    onnx.save(model, tmp_path / "g.onnx")
    samples = random.standard_normal((40, 8)).astype(np.float32)
    samples[:, 0] *= 2e-4  # the input of the large weights is small, so all rows contribute to the exact output
    quantise_graph(tmp_path / "g.onnx", tmp_path / "g.int8.onnx", "x", samples, 0.04)
    assert quantised_nodes(onnx.load(tmp_path / "g.int8.onnx")) == ["first", "second"]
    assert "not in INT8: wide_product" in caplog.text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"frames": np.zeros(3)}, "not a calibration set"),
        (
            {"windows": np.zeros((2, 3), np.uint8)},
            r"windows are uint8 \(2, 3\); camera-events@\w+ needs uint8 \(1 to 4096",
        ),
        ({"windows": np.zeros((1,), object)}, "not a calibration set"),
    ],
)
def test_a_file_that_is_not_a_calibration_set_is_refused(
    tmp_path: Path, built_in: Bundle, content: dict[str, np.ndarray], message: str
) -> None:
    np.savez(tmp_path / "w.npz", **content)  # type: ignore[arg-type]
    with pytest.raises(BundleError, match=message):
        load_windows(tmp_path / "w.npz", built_in.spec)
