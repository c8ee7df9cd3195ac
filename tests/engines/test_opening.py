"""`open_engine` checks the golden clip, falls back with `auto`, and raises errors that name the remedy."""

from pathlib import Path

import numpy as np
import pytest
from support.bundles import make_brightness_bundle

import engines.opening
from engines.backends.names import LIBRARIES, Backend
from engines.bundle import Bundle, write_spec
from engines.errors import BackendMissingError, BundleError, ParityError
from engines.opening import open_engine
from engines.protocol import Engine


def test_an_engine_that_differs_from_the_golden_clip_is_refused(tmp_path: Path, backend: Backend) -> None:
    """The golden clip is of another model; the error names both labels and the difference."""
    bundle = make_brightness_bundle(tmp_path / "other")
    golden = bundle.golden()
    np.savez(bundle.path / "golden.npz", frames=golden.frames, logits=-golden.logits)
    fields = bundle.spec.model_dump(exclude={"files"})
    with pytest.raises(ParityError, match=r"gives dark, PyTorch bright; max \|dp\|"):
        open_engine(write_spec(bundle.path, fields), backend=backend, precision="fp32")


def test_auto_replaces_a_reduced_precision_that_fails_the_golden_clip(
    brightness: Bundle, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tried = []
    check = engines.opening.check_parity

    def pass_only_in_fp32(engine: Engine, golden: object) -> object:
        tried.append(engine.precision)
        if engine.precision != "fp32" or len(tried) == 1:
            raise ParityError(f"{engine.precision} collapsed", precision="bf16")
        return check(engine, golden)  # type: ignore[arg-type]

    monkeypatch.setattr(engines.opening, "check_parity", pass_only_in_fp32)
    engine = open_engine(brightness)
    assert engine.precision == "fp32"
    assert tried[-1] == "fp32"
    # With bf16: both graphs lowered, the head in fp32, the encoder in fp32, both in fp32.
    assert len(tried) == 4 or {*tried[1:]} == {"fp32"}
    assert "trying it with one of its two graphs in fp32" in caplog.text
    engine.close()


def test_a_file_that_is_not_an_onnx_graph_is_refused(tmp_path: Path, backend: Backend) -> None:
    bundle = make_brightness_bundle(tmp_path / "broken")
    (bundle.path / "encoder.onnx").write_bytes(b"not a graph")
    fields = bundle.spec.model_dump(exclude={"files"})
    with pytest.raises(BundleError, match=r"cannot|not an ONNX graph"):
        open_engine(write_spec(bundle.path, fields), backend=backend)


@pytest.mark.parametrize(
    ("backend", "message"),
    [
        ("onnxruntime", r"onnxruntime not installed; pip install onnxruntime"),
        ("tensorrt", r"tensorrt and pycuda or cuda.bindings not installed; pip install tensorrt-cu12"),
        ("openvino", "openvino not installed; pip install openvino"),
    ],
)
def test_the_error_for_a_missing_library_names_the_extra(
    brightness: Bundle, monkeypatch: pytest.MonkeyPatch, backend: str, message: str
) -> None:
    monkeypatch.setattr(
        engines.opening, "missing_libraries", lambda name: [" or ".join(group) for group in LIBRARIES[name]]
    )
    with pytest.raises(BackendMissingError, match=message):
        open_engine(brightness, backend=backend)  # type: ignore[arg-type]


def test_the_error_for_int8_without_quantised_graphs_says_how_to_make_them(
    brightness: Bundle, backend: Backend
) -> None:
    with pytest.raises(BundleError, match=r"has no encoder\.int8\.onnx; make one: streamclf compile .*--calibration"):
        open_engine(brightness, backend=backend, precision="int8")
