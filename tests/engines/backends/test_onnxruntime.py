"""The ONNX Runtime backend chooses one of the installed execution providers."""

import onnxruntime
import pytest

import engines.backends.onnxruntime
from engines.backends.names import Precision
from engines.bundle import Bundle
from engines.errors import BackendMissingError
from engines.opening import open_engine


def test_the_best_installed_provider_comes_first() -> None:
    usable = engines.backends.onnxruntime.usable_providers
    gpu = ["CPUExecutionProvider", "TensorrtExecutionProvider", "CUDAExecutionProvider"]
    assert usable(gpu, "fp32")[0] == "CUDAExecutionProvider"
    assert usable(gpu, "fp16") == ["TensorrtExecutionProvider"]
    assert usable(["CPUExecutionProvider", "CoreMLExecutionProvider"], "fp32")[0] == "CoreMLExecutionProvider"
    assert usable(["AzureExecutionProvider", "CPUExecutionProvider"], "fp32") == ["CPUExecutionProvider"]


def test_a_provider_that_does_not_start_is_logged_and_replaced(
    brightness: Bundle, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A CUDA build of ONNX Runtime silently falls back to the CPU on a machine without CUDA; the log reports it."""
    session = onnxruntime.InferenceSession
    monkeypatch.setattr(
        onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
    )
    monkeypatch.setattr(
        onnxruntime,
        "InferenceSession",
        lambda path, settings, providers: session(path, settings, providers=["CPUExecutionProvider"]),
    )
    engine = open_engine(brightness, backend="onnxruntime")
    assert "CUDAExecutionProvider is installed but does not start on this machine" in caplog.text
    assert engine.description.endswith("CPU")
    engine.close()


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_precision_without_a_provider_is_refused(brightness: Bundle, precision: Precision) -> None:
    with pytest.raises(BackendMissingError, match=f"precision={precision}: .*; use fp32 or auto"):
        open_engine(brightness, backend="onnxruntime", precision=precision)
