"""`check` names each listed GPU that the machine does not have."""

from __future__ import annotations

import pytest

from engines.backends.gpu import Gpu
from streamclf.commands import device_checks
from streamclf.commands.device_checks import find_missing_devices
from streamclf.config.engine import EngineConfig


@pytest.mark.parametrize(
    ("devices", "count", "visible", "problems"),
    [
        (None, 0, None, []),
        ((0, 1), 2, None, []),
        ((0, 2, 3), 2, None, ["GPU 2: this machine has the numbers 0, 1", "GPU 3: this machine has the numbers 0, 1"]),
        ((0, 1), 4, "2", ["GPU 1: this machine has the numbers 0;"]),
        ((0,), 1, "", ["GPU 0: this machine has the numbers none"]),
        ((0,), 0, None, ["no NVIDIA GPU is visible here"]),
    ],
)
def test_a_gpu_that_is_not_there_is_a_problem(
    monkeypatch: pytest.MonkeyPatch,
    devices: tuple[int, ...] | None,
    count: int,
    visible: str | None,
    problems: list[str],
) -> None:
    monkeypatch.setattr(device_checks, "missing_libraries", lambda backend: [])
    environ = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    gpus = [Gpu(name="NVIDIA H200")] * count
    found = list(find_missing_devices(EngineConfig(devices=devices), gpus=lambda: gpus, environ=environ))
    assert len(found) == len(problems)
    assert all(problem in text for problem, text in zip(problems, found, strict=True)), found


def test_a_missing_library_for_gpus_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_checks, "missing_libraries", lambda backend: ["tensorrt"])
    engine = EngineConfig(devices=(0,))
    (text,) = find_missing_devices(engine, gpus=lambda: [Gpu(name="NVIDIA L4", driver="550.54")], environ={})
    assert text == "engine.devices: tensorrt not installed; pip install tensorrt-cu12 'cuda-bindings<13' onnx"
