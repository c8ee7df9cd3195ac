"""Run `streamclf doctor`: report the machine, the backend that each model gets and why, and what to install."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import re
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import orjson

from engines.backends.choice import BackendChoice, choose_backend
from engines.backends.cores import usable_cores
from engines.backends.gpu import Gpu, find_gpus
from engines.backends.names import GPU_BACKEND, INSTALL
from engines.errors import EngineError
from engines.printable import printable
from streamclf.builtin_models import BUNDLES, builtin_models
from streamclf.runtime.logs import configure_logging
from streamclf.sources.camera import Camera, list_cameras

LIBRARIES: Final = {
    # The purpose of each distribution.
    "openvino": "inference on the CPU",
    "onnxruntime": "inference anywhere",
    "tensorrt": "inference on an NVIDIA GPU",
    "pycuda": "CUDA for TensorRT",
    "cuda-bindings": "CUDA for TensorRT, if there is no PyCUDA",
    "onnx": "preparing graphs for TensorRT",
    "av": "decoding",
    "opencv-python": "webcams, drawing",
    "pillow": "folders of images",
    "pyzmq": "events",
    "numpy": "arrays",
}
OTHER_DISTRIBUTIONS: Final = {
    "tensorrt": ("tensorrt-cu13", "tensorrt-cu12", "tensorrt-cu11"),
    "opencv-python": ("opencv-python-headless", "opencv-contrib-python", "opencv-contrib-python-headless"),
}
"""Distributions that bring the same module as the one that `LIBRARIES` names."""
CPU_FEATURES: Final = {
    # The precision that gains from each feature, by the kernel's name of the feature.
    "avx2": "fp32",
    "avx512f": "fp32, faster",
    "avx512_vnni": "int8",
    "avx_vnni": "int8",
    "avx512_bf16": "bf16",
    "avx512_fp16": "fp16",
    "amx_bf16": "bf16, much faster",
    "amx_int8": "int8, much faster",
    "asimd": "fp32",
    "asimddp": "int8",
    "bf16": "bf16",
    "i8mm": "int8, faster",
}
DECODERS: Final = ("h264", "hevc", "av1", "vp9", "vp8", "mjpeg", "mpeg4")
MIN_FREE_BYTES: Final = 1 << 30


def run_doctor(*, as_json: bool) -> int:
    """Print the report; return the exit code, 1 if no built-in model can run."""
    configure_logging("doctor", "error")
    report = examine_machine()
    if as_json:
        sys.stdout.buffer.write(orjson.dumps(report) + b"\n")
    else:
        print("\n".join(map(printable, format_report(report))))
    return 0 if any(model["works"] for model in report["models"]) else 1


def examine_machine(
    *,
    gpus: Callable[[], Sequence[Gpu]] = find_gpus,
    cameras: Callable[[], Sequence[Camera]] = list_cameras,
    proc: Path = Path("/proc"),
) -> dict[str, Any]:
    """Return all facts about this machine that matter for the service, ready for JSON."""
    found_gpus, found_cameras = list(gpus()), list(cameras())
    choice = choose_backend(gpus=lambda: found_gpus)
    libraries = {name: _version(name) for name in LIBRARIES}
    models = [_check_model(name) for name in builtin_models()]
    decoding = _decoding()
    return {
        "system": {"os": platform.platform(), "python": platform.python_version()},
        "cpu": _cpu(proc),
        "memory": _memory(proc),
        "gpus": [asdict(gpu) for gpu in found_gpus],
        "libraries": libraries,
        "cameras": [{"index": camera.index, "path": str(camera.path), "name": camera.name} for camera in found_cameras],
        "decoding": decoding,
        "auto": {"backend": choice.order[0] if choice.order else None, "reason": choice.reason},
        "models": models,
        "advice": _advice(choice, found_gpus, found_cameras, libraries),
    }


def _check_model(name: str) -> dict[str, Any]:
    """Open one model with the backend `auto`, check its golden clip and close it."""
    from engines.bundle import load_bundle
    from engines.opening import open_engine
    from engines.parity import check_parity

    try:
        bundle = load_bundle(BUNDLES / name)
        engine = open_engine(bundle)
        try:
            parity = check_parity(engine, bundle.golden())
        finally:
            engine.close()
    except EngineError as error:
        return {"name": name, "works": False, "engine": None, "max_dp": None, "error": str(error)}
    return {
        "name": bundle.spec.id,
        "works": True,
        "engine": engine.description,
        "max_dp": parity.max_dp,
        "error": None,
    }


def _cpu(proc: Path) -> dict[str, Any]:
    text = _text(proc / "cpuinfo")
    model = re.search(r"^(?:model name|Model)\s*:\s*(.+)$", text, re.MULTILINE)
    flags = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", text, re.MULTILINE)
    known = set(flags[1].split()) if flags else set()
    return {
        "model": model[1].strip() if model else platform.processor() or platform.machine(),
        "cores": os.cpu_count() or 1,
        "usable_cores": usable_cores(),
        "features": [name for name in CPU_FEATURES if name in known],
    }


def _memory(proc: Path) -> dict[str, int | None]:
    sizes = dict(re.findall(r"^(\w+):\s+(\d+) kB$", _text(proc / "meminfo"), re.MULTILINE))
    return {
        "total_mib": int(sizes["MemTotal"]) // 1024 if "MemTotal" in sizes else None,
        "available_mib": int(sizes["MemAvailable"]) // 1024 if "MemAvailable" in sizes else None,
    }


def _decoding() -> dict[str, Any]:
    """Return the codecs that PyAV decodes, and why each device of the key `decode` cannot be opened; None if it can."""
    import av

    from streamclf.sources.hw_decode import DEVICES, opening_failure

    return {
        "software": [name for name in DECODERS if name in av.codecs_available],
        "hardware": {device: opening_failure(device) for device in DEVICES},
    }


def _advice(
    choice: BackendChoice, gpus: Sequence[Gpu], cameras: Sequence[Camera], libraries: dict[str, str | None]
) -> list[str]:
    advice = list(choice.advice)
    if not choice.order:
        advice.append(f"pip install {INSTALL['openvino']}: no inference library is installed")
    if len(gpus) > 1 and choice.order[:1] == (GPU_BACKEND,):
        numbers = ", ".join(map(str, range(len(gpus))))
        advice.append(
            f"engine: {{devices: [{numbers}]}} in a service uses all {len(gpus)} GPUs; without it, the first one"
        )
    if gpus and libraries["tensorrt"] and not libraries["onnx"]:
        advice.append("pip install onnx: it prepares graphs for every version of TensorRT")
    advice += [
        f"{camera.path}: no permission to open it; add this user to the group video"
        for camera in cameras
        if not os.access(camera.path, os.R_OK | os.W_OK)
    ]
    if not cameras:
        advice.append("no camera was found; streams can be files and URLs, and `streamclf demo` renders a film")
    from engines.cache import cache_root

    root = next(path for path in (cache_root(), *cache_root().parents) if path.exists())
    if not os.access(root, os.W_OK):
        advice.append(f"{root}: cannot be written, so every start compiles the engines again; set STREAMCLF_CACHE")
    elif shutil.disk_usage(root).free < MIN_FREE_BYTES:
        advice.append(
            f"{root}: has less than 1 GiB free, perhaps too little to keep compiled engines; set STREAMCLF_CACHE"
        )
    return advice


def format_report(report: dict[str, Any]) -> list[str]:
    """Format the report as lines of text."""
    cpu, memory, decoding = report["cpu"], report["memory"], report["decoding"]
    features = (
        ", ".join(f"{name} ({CPU_FEATURES[name]})" for name in cpu["features"]) or "no features that speed up inference"
    )
    lines = [
        f"system     {report['system']['os']}, Python {report['system']['python']}",
        f"cpu        {cpu['model']}, {cpu['usable_cores']} of {cpu['cores']} cores usable",
        f"           {features}",
    ]
    if memory["total_mib"]:
        lines.append(f"memory     {memory['available_mib']:,} of {memory['total_mib']:,} MiB available")
    lines += [f"gpu        {number}: {_gpu_line(gpu)}" for number, gpu in enumerate(report["gpus"])] or [
        "gpu        none (no NVIDIA GPU is visible)"
    ]
    lines += [
        f"library    {name} {version or 'not installed'} ({LIBRARIES[name]})"
        for name, version in report["libraries"].items()
    ]
    lines += [f"camera     {item['index']}: {item['name']} ({item['path']})" for item in report["cameras"]]
    lines += [] if report["cameras"] else ["camera     none"]
    lines.append(f"decoders   {', '.join(decoding['software'])}")
    lines += [f"           {device}: {failure or 'available'}" for device, failure in decoding["hardware"].items()]
    lines.append(f"auto       {report['auto']['backend'] or 'no backend'}: {report['auto']['reason']}")
    for model in report["models"]:
        if model["works"]:
            lines.append(f"model      {model['name']}: {model['engine']}; golden clip: max |dp| {model['max_dp']:.1e}")
        else:
            lines.append(f"model      {model['name']}: {model['error']}")
    return lines + [f"advice     {text}" for text in report["advice"]]


def _gpu_line(gpu: dict[str, Any]) -> str:
    parts = [gpu["name"]]
    if gpu["memory_mib"]:
        parts.append(f"{gpu['memory_mib']:,} MiB")
    if gpu["compute_capability"]:
        parts.append(f"compute capability {gpu['compute_capability']}")
    if gpu["driver"]:
        parts.append(f"driver {gpu['driver']}")
    return ", ".join(parts)


def _version(distribution: str) -> str | None:
    """Return the version of a distribution, or of another one that brings the same module."""
    for name in (distribution, *OTHER_DISTRIBUTIONS.get(distribution, ())):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            version = importlib.metadata.version(name)
            return version if name == distribution else f"{version} ({name})"
    return None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
