"""`streamclf doctor`: what it reads from the machine, and the advice that it gives."""

import importlib.metadata
import json
from pathlib import Path

import pytest

import streamclf.commands.doctor
from engines.backends.choice import choose_backend
from engines.backends.gpu import Gpu
from engines.errors import ParityError
from streamclf.cli import _main
from streamclf.commands.doctor import _advice, _cpu, _memory, _version, examine_machine, format_report
from streamclf.sources.camera import Camera

CARD = Gpu(name="NVIDIA H200", driver="570.1", memory_mib=143771, compute_capability="9.0")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAMCLF_CACHE", str(tmp_path / "cache"))


def test_json_is_one_object_and_names_the_backend_of_auto(capsys: pytest.CaptureFixture[str]) -> None:
    assert _main(["doctor", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert set(report) == {
        "system", "cpu", "memory", "gpus", "libraries", "cameras", "decoding", "auto", "models", "advice",
    }  # fmt: skip
    (model,) = [item for item in report["models"] if item["name"].startswith("camera-events@")]
    assert model["works"]
    assert model["engine"].startswith(report["auto"]["backend"])
    assert model["max_dp"] < 2e-2
    assert "h264" in report["decoding"]["software"]
    assert set(report["decoding"]["hardware"]) == {"cuda", "vaapi", "videotoolbox"}
    assert report["libraries"]["numpy"]


def test_the_text_names_gpu_cameras_and_advice(tmp_path: Path) -> None:
    camera = Camera(index=2, path=tmp_path / "absent", name="Desk cam")
    lines = "\n".join(format_report(examine_machine(gpus=lambda: [CARD], cameras=lambda: [camera])))
    assert "gpu        0: NVIDIA H200, 143,771 MiB, compute capability 9.0, driver 570.1" in lines
    assert "camera     2: Desk cam" in lines
    assert "advice     pip install tensorrt-cu12 'cuda-bindings<13' onnx to run on NVIDIA H200" in lines
    assert f"advice     {tmp_path}/absent: no permission to open it; add this user to the group video" in lines
    assert "auto       openvino: NVIDIA H200 is here, but not tensorrt" in lines


def test_a_model_that_cannot_run_is_one_line_and_exit_code_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(bundle: object) -> None:
        raise ParityError("golden clip gives dark, PyTorch bright")

    monkeypatch.setattr("engines.opening.open_engine", fail)
    assert _main(["doctor"]) == 1
    assert "model      camera-events: golden clip gives dark, PyTorch bright" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "model", "features"),
    [
        ("model name\t: EPYC\nflags\t\t: fpu avx2 avx512_bf16\n", "EPYC", ["avx2", "avx512_bf16"]),
        ("processor\t: 0\nFeatures\t: fp asimd i8mm\nModel\t\t: Pi 5\n", "Pi 5", ["asimd", "i8mm"]),
    ],
)
def test_cpu_features_are_read_on_x86_and_arm(tmp_path: Path, text: str, model: str, features: list[str]) -> None:
    (tmp_path / "cpuinfo").write_text(text)
    cpu = _cpu(tmp_path)
    assert (cpu["model"], cpu["features"]) == (model, features)
    assert 1 <= cpu["usable_cores"] <= cpu["cores"]


def test_without_proc_memory_and_features_are_unknown(tmp_path: Path) -> None:
    assert _memory(tmp_path) == {"total_mib": None, "available_mib": None}
    assert _cpu(tmp_path)["features"] == []


def test_advice_names_a_full_or_unwritable_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    choice = choose_backend(gpus=list)
    libraries = dict.fromkeys(streamclf.commands.doctor.LIBRARIES, "1")
    monkeypatch.setattr(streamclf.commands.doctor, "MIN_FREE_BYTES", 1 << 62)
    assert "has less than 1 GiB free" in " ".join(_advice(choice, [], [], libraries))
    monkeypatch.setattr("os.access", lambda path, mode: False)
    assert "cannot be written, so every start compiles the engines again" in " ".join(
        _advice(choice, [], [], libraries)
    )


def test_other_distributions_of_a_library_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = {"tensorrt-cu12": "10.13.3", "pycuda": "2026.1"}

    def version(name: str) -> str:
        if name not in installed:
            raise importlib.metadata.PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr("importlib.metadata.version", version)
    assert _version("tensorrt") == "10.13.3 (tensorrt-cu12)"
    assert _version("pycuda") == "2026.1"
    assert _version("cuda-bindings") is None
