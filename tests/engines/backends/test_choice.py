"""`auto` chooses the fastest backend of the machine, and the GPUs are found without CUDA."""

import logging
from collections.abc import Sequence
from pathlib import Path

import pytest
from support.bundles import make_brightness_bundle

import engines.opening
from engines.backends.choice import BackendChoice, choose_backend
from engines.backends.gpu import Gpu, find_gpus
from engines.errors import BackendMissingError
from engines.opening import open_engine

H200 = Gpu(name="NVIDIA H200", driver="570.1", memory_mib=143771, compute_capability="9.0")


def choose(gpus: Sequence[Gpu], *absent: str) -> BackendChoice:
    missing = {"tensorrt": [n for n in ("tensorrt", "pycuda") if n in absent]}
    return choose_backend(
        gpus=lambda: gpus, missing=lambda b: missing.get(b, []) if b == "tensorrt" else [b] * (b in absent)
    )


@pytest.mark.parametrize(
    ("gpus", "absent", "order", "reason"),
    [
        ([H200], (), ("tensorrt", "openvino", "onnxruntime"), "NVIDIA H200 and TensorRT are here"),
        ([H200], ("pycuda",), ("openvino", "onnxruntime"), "NVIDIA H200 is here, but not pycuda; openvino is"),
        ([], (), ("openvino", "onnxruntime"), "no NVIDIA GPU is visible; openvino is the fastest on a CPU"),
        ([], ("openvino",), ("onnxruntime",), "no NVIDIA GPU is visible; onnxruntime is portable"),
        ([], ("openvino", "onnxruntime", "tensorrt"), (), "no NVIDIA GPU is visible"),
    ],
)
def test_auto_chooses_the_fastest_backend_and_gives_the_reason(
    gpus: Sequence[Gpu], absent: tuple[str, ...], order: tuple[str, ...], reason: str
) -> None:
    choice = choose(gpus, *absent)
    assert choice.order == order
    assert choice.reason.startswith(reason)


def test_the_advice_says_what_to_install() -> None:
    assert choose([H200], "tensorrt").advice == (
        "pip install tensorrt-cu12 'cuda-bindings<13' onnx to run on NVIDIA H200",
    )
    newer = Gpu(name="NVIDIA H200", driver="580.65.06")
    assert choose([newer], "tensorrt").advice[0].startswith("pip install tensorrt-cu13 cuda-bindings onnx to")
    assert "pip install openvino: it is 2 to 4 times" in choose([], "openvino").advice[0]
    assert choose([]).advice == ()


def test_auto_tries_the_next_backend_if_the_first_cannot_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """TensorRT can fail although a GPU and the libraries are present: the driver is old, or the memory is full."""
    caplog.set_level(logging.INFO, "engine")
    monkeypatch.setattr(
        engines.opening, "choose_backend", lambda: BackendChoice(order=("tensorrt", "onnxruntime"), reason="r")
    )
    monkeypatch.setattr(engines.opening, "missing_libraries", lambda b: ["tensorrt"] if b == "tensorrt" else [])
    engine = open_engine(make_brightness_bundle(tmp_path / "b"))
    assert engine.description.startswith("onnxruntime")
    assert "auto: tensorrt (r)" in caplog.text
    assert (
        "tensorrt not installed; pip install tensorrt-cu12 'cuda-bindings<13' onnx; trying onnxruntime" in caplog.text
    )
    engine.close()


def test_without_any_library_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines.opening, "choose_backend", lambda: BackendChoice(order=(), reason="nothing"))
    with pytest.raises(BackendMissingError, match="pip install openvino"):
        open_engine(make_brightness_bundle(tmp_path / "b"))


def install_driver_files(root: Path) -> Path:
    (root / "proc/driver/nvidia/gpus/0000:01:00.0").mkdir(parents=True)
    (root / "proc/driver/nvidia/version").write_text(
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.86.15  Release Build\n"
    )
    (root / "proc/driver/nvidia/gpus/0000:01:00.0/information").write_text("Model: \t\t NVIDIA H200\nIRQ:   1\n")
    return root


def write_script(path: Path, body: str) -> str:
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return str(path)


def test_without_a_driver_nvidia_smi_is_not_started(tmp_path: Path) -> None:
    smi = write_script(tmp_path / "smi", f"touch {tmp_path}/started")
    assert find_gpus(tmp_path / "root", smi=smi) == []
    assert not (tmp_path / "started").exists()


def test_nvidia_smi_describes_the_gpus(tmp_path: Path) -> None:
    smi = write_script(tmp_path / "smi", "echo 'NVIDIA H200, 570.1, 143771, 9.0'")
    assert find_gpus(install_driver_files(tmp_path / "root"), smi=smi) == [H200]


def test_an_old_nvidia_smi_gives_no_compute_capability(tmp_path: Path) -> None:
    smi = write_script(tmp_path / "smi", 'case "$1" in *compute_cap*) exit 2;; esac; echo "Tesla T4, 470.57, 15109"')
    (gpu,) = find_gpus(install_driver_files(tmp_path / "root"), smi=smi)
    assert (gpu.name, gpu.memory_mib, gpu.compute_capability) == ("Tesla T4", 15109, None)


@pytest.mark.parametrize("body", ["exit 9", "echo 'No devices were found'", "exec sleep 3600"])
def test_with_a_broken_nvidia_smi_the_kernel_describes_the_gpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str
) -> None:
    monkeypatch.setattr("engines.backends.gpu.QUERY_S", 0.2)
    found = find_gpus(install_driver_files(tmp_path / "root"), smi=write_script(tmp_path / "smi", body))
    assert found == [Gpu(name="NVIDIA H200", driver="570.86.15")]


def test_a_jetson_is_recognised_by_its_release_file(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "proc/device-tree").mkdir(parents=True)
    (tmp_path / "etc/nv_tegra_release").write_text("# R35")
    (tmp_path / "proc/device-tree/model").write_text("Jetson AGX Orin\0")
    assert find_gpus(tmp_path, smi="/nonexistent") == [Gpu(name="Jetson AGX Orin")]
