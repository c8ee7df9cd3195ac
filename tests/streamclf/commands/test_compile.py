"""`streamclf compile`: what it builds, measures and refuses."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from support.bundles import make_brightness_bundle

from engines.bundle import load_bundle
from engines.explain_precision import GraphPrecisionReport
from engines.opening import open_engine
from engines.parity import TOLERANCE, ParityReport
from engines.throughput import measure_speed
from streamclf.builtin_models import BUNDLES
from streamclf.cli import _main


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAMCLF_CACHE", str(tmp_path / "cache"))


@pytest.fixture(autouse=True)
def _short_measurements(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamclf.commands.compile.measure_speed", partial(measure_speed, seconds=0.02))


@pytest.fixture
def model(tmp_path: Path) -> str:
    return str(make_brightness_bundle(tmp_path / "brightness").path)


def report_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, object]:
    assert _main(["compile", *arguments, "--json"]) == 0
    report: dict[str, object] = json.loads(capsys.readouterr().out)
    return report


def test_the_engine_is_cached_checked_and_measured(
    model: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    report = report_of(capsys, model, "--backend", "openvino", "--precision", "fp32", "--max-batch", "4")
    assert report["golden"]["max_dp"] <= report["golden"]["allowed"] == 1e-4  # type: ignore[index]
    assert report["max_batch"] == 4
    assert report["encodes_per_s"] > 0  # type: ignore[operator]
    monkeypatch.setattr("openvino.Core.compile_model", lambda *_: pytest.fail("the engine must come from the cache"))
    open_engine(load_bundle(Path(model)), backend="openvino", precision="fp32").close()


def test_the_text_report_names_engine_precisions_and_error(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert _main(["compile", model, "--backend", "onnxruntime", "--explain"]) == 0
    out = capsys.readouterr().out
    assert "fp16: with all" in out
    assert "brightness@1 on onnxruntime" in out
    assert "golden clip: max |dp|" in out


def test_a_model_is_calibrated_for_int8_and_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One command quantises, writes a new bundle, and reports the loss of accuracy and the gain of speed."""
    monkeypatch.setitem(TOLERANCE, "int8", 0.15)  # two noisy copies of one window calibrate poorly
    bundle = load_bundle(BUNDLES / "camera-events")
    frames = bundle.golden().frames
    random = np.random.default_rng(0)
    windows = np.stack([np.clip(frames + random.integers(-s, s + 1, frames.shape), 0, 255) for s in (0, 9)])
    label = int(bundle.golden().logits.argmax())
    np.savez(tmp_path / "windows.npz", windows=windows.astype(np.uint8), labels=np.full(2, label))
    report = report_of(
        capsys, "camera-events", "--backend", "onnxruntime", "--precision", "int8", "--max-batch", "8",
        "--calibration", str(tmp_path / "windows.npz"), "--validation", str(tmp_path / "windows.npz"),
        "-o", str(tmp_path / "int8"),
    )  # fmt: skip
    against = report["against_fp32"]
    assert isinstance(against, dict)
    assert against["windows"] == 2
    assert against["accuracy_fp32"] >= 0.5
    assert 0 < against["max_dp"] < 0.2
    assert against["encode_speedup"] > 0
    assert "encoder.int8.onnx" in load_bundle(tmp_path / "int8").spec.files


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--explain", "--precision", "int8"], 2, "--explain --precision int8: --explain is for fp16 and bf16"),
        (["--calibration", "w.npz"], 2, "--calibration and -o belong together"),
        (["--calibration", "w.npz", "-o", "out", "--precision", "fp16"], 2, "calibration is for INT8"),
        (["--calibration", "absent.npz", "-o", "out", "--precision", "int8"], 1, "absent.npz: not a calibration set"),
        (["--backend", "tensorrt"], 1, "pip install tensorrt-cu12 'cuda-bindings<13' onnx"),
        (["--max-batch", "0"], 2, "--max-batch"),
    ],
)
def test_the_error_for_wrong_input_names_the_option(
    model: str, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, message: str
) -> None:
    assert _main(["compile", model, *arguments]) == code
    error = capsys.readouterr().err
    assert message in error


def test_the_error_names_the_libraries_that_explain_needs(
    model: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamclf.commands.compile.importlib.util.find_spec", lambda name: None)
    assert _main(["compile", model, "--explain"]) == 1
    assert "onnx and onnxruntime not installed; pip install onnx onnxruntime" in capsys.readouterr().err


def test_for_openvino_the_loss_is_explained_by_graph(
    model: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenVINO lowers operators that the ONNX graph does not name, so the command measures on OpenVINO itself."""
    reports = {
        None: ParityReport(max_dp=0.5, actual="dark", expected="bright"),
        "head": ParityReport(max_dp=float("nan"), actual="bright", expected="bright"),
        "encoder": ParityReport(max_dp=0.01, actual="bright", expected="bright"),
    }
    found = GraphPrecisionReport(precision="bf16", reports=reports)
    monkeypatch.setattr("streamclf.commands.compile.explain_by_graph", lambda *_: found)
    assert _main(["compile", model, "--backend", "openvino", "--explain"]) == 0
    out = capsys.readouterr().out
    assert "both graphs in bf16: max |dp| 5.0e-01, and another label (dark)" in out
    assert "--precision auto keeps the encoder in fp32" in out
    report = report_of(capsys, model, "--backend", "openvino", "--explain")
    assert report["explanation"] == {
        "precision": "bf16", "max_dp": {"none": 0.5, "head": None, "encoder": 0.01}, "keep_fp32": ["encoder"],
    }  # fmt: skip
