"""What `auto` takes, and what the machine is asked for it."""

import logging
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from support.bundles import make_brightness_bundle

import engines.opening
from engines.backends.choice import BackendChoice, choose_backend
from engines.backends.gpu import Gpu, find_gpus
from engines.errors import BackendMissingError
from engines.opening import open_engine

CARD = Gpu(name="NVIDIA H200", driver="570.1", memory_mib=143771, compute_capability="9.0")


def choose(gpus: Sequence[Gpu], *absent: str) -> BackendChoice:
    lacking = {"tensorrt": [n for n in ("tensorrt", "pycuda") if n in absent]}
    return choose_backend(
        gpus=lambda: gpus, missing=lambda b: lacking.get(b, []) if b == "tensorrt" else [b] * (b in absent)
    )


@pytest.mark.parametrize(
    ("gpus", "absent", "order", "reason"),
    [
        ([CARD], (), ("tensorrt", "openvino", "onnxruntime"), "NVIDIA H200 and TensorRT are here"),
        ([CARD], ("pycuda",), ("openvino", "onnxruntime"), "NVIDIA H200 is here, but not pycuda; openvino is"),
        ([], (), ("openvino", "onnxruntime"), "no NVIDIA GPU is visible; openvino is the fastest on a CPU"),
        ([], ("openvino",), ("onnxruntime",), "no NVIDIA GPU is visible; onnxruntime is portable"),
        ([], ("openvino", "onnxruntime", "tensorrt"), (), "no NVIDIA GPU is visible"),
    ],
)
def test_what_auto_takes_and_why(
    gpus: Sequence[Gpu], absent: tuple[str, ...], order: tuple[str, ...], reason: str
) -> None:
    choice = choose(gpus, *absent)
    assert choice.order == order
    assert choice.reason.startswith(reason)


def test_what_to_install_to_do_better() -> None:
    assert choose([CARD], "tensorrt").advice == ("pip install 'streamclf[tensorrt]' to run on NVIDIA H200",)
    assert "pip install streamclf brings openvino" in choose([], "openvino").advice[0]
    assert choose([]).advice == ()


def test_auto_goes_on_where_the_first_cannot_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A GPU and its libraries can be there and TensorRT still not run: an old driver, a full card."""
    caplog.set_level(logging.INFO, "engine")
    monkeypatch.setenv("STREAMCLF_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(
        engines.opening, "choose_backend", lambda: BackendChoice(order=("tensorrt", "onnxruntime"), reason="r")
    )
    monkeypatch.setattr(engines.opening, "missing_libraries", lambda b: ["tensorrt"] if b == "tensorrt" else [])
    engine = open_engine(make_brightness_bundle(tmp_path / "b"))
    assert engine.description.startswith("onnxruntime")
    assert "auto: tensorrt (r)" in caplog.text
    assert "tensorrt not installed; pip install 'streamclf[tensorrt]'; trying onnxruntime" in caplog.text
    engine.close()


def test_no_library_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines.opening, "choose_backend", lambda: BackendChoice(order=(), reason="nothing"))
    with pytest.raises(BackendMissingError, match="pip install streamclf"):
        open_engine(make_brightness_bundle(tmp_path / "b"))


def nvidia(root: Path) -> Path:
    (root / "proc/driver/nvidia/gpus/0000:01:00.0").mkdir(parents=True)
    (root / "proc/driver/nvidia/version").write_text(
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.86.15  Release Build\n"
    )
    (root / "proc/driver/nvidia/gpus/0000:01:00.0/information").write_text("Model: \t\t NVIDIA H200\nIRQ:   1\n")
    return root


def script(path: Path, body: str) -> str:
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return str(path)


def test_without_a_driver_nothing_is_started(tmp_path: Path) -> None:
    smi = script(tmp_path / "smi", f"touch {tmp_path}/started")
    assert find_gpus(tmp_path / "root", smi=smi) == []
    assert not (tmp_path / "started").exists()


def test_nvidia_smi_describes_the_cards(tmp_path: Path) -> None:
    smi = script(tmp_path / "smi", "echo 'NVIDIA H200, 570.1, 143771, 9.0'")
    assert find_gpus(nvidia(tmp_path / "root"), smi=smi) == [CARD]


def test_an_old_nvidia_smi_does_not_know_the_compute_capability(tmp_path: Path) -> None:
    smi = script(tmp_path / "smi", 'case "$1" in *compute_cap*) exit 2;; esac; echo "Tesla T4, 470.57, 15109"')
    (gpu,) = find_gpus(nvidia(tmp_path / "root"), smi=smi)
    assert (gpu.name, gpu.memory_mib, gpu.compute_capability) == ("Tesla T4", 15109, None)


@pytest.mark.parametrize("body", ["exit 9", "echo 'No devices were found'", "exec sleep 30"])
def test_a_broken_nvidia_smi_leaves_what_the_kernel_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str
) -> None:
    monkeypatch.setattr("engines.backends.gpu.QUERY_S", 0.2)
    began = time.monotonic()
    found = find_gpus(nvidia(tmp_path / "root"), smi=script(tmp_path / "smi", body))
    assert found == [Gpu(name="NVIDIA H200", driver="570.86.15")]
    assert time.monotonic() - began < 10


def test_a_jetson_is_known_by_its_release_file(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "proc/device-tree").mkdir(parents=True)
    (tmp_path / "etc/nv_tegra_release").write_text("# R35")
    (tmp_path / "proc/device-tree/model").write_text("Jetson AGX Orin\0")
    assert find_gpus(tmp_path, smi="/nonexistent") == [Gpu(name="Jetson AGX Orin")]
