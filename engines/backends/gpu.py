"""Find the NVIDIA GPUs without loading CUDA, which would allocate a context and could crash."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from engines.backends.names import TENSORRT_PACKAGES

QUERY_S: Final = 10.0
"""Time limit for `nvidia-smi`, which can hang on a machine with a broken driver."""
FIELDS: Final = ("name", "driver_version", "memory.total", "compute_cap")
OLD_FIELDS: Final = FIELDS[:3]
"""The fields for drivers before 510, whose `nvidia-smi` does not know `compute_cap`."""
DRIVER_PATHS: Final = ("proc/driver/nvidia/version", "dev/nvidiactl", "dev/dxg", "etc/nv_tegra_release")
"""An NVIDIA driver may be installed if one of these exists: on Linux, in containers, in WSL, on a Jetson."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """An NVIDIA GPU as the operating system describes it, not CUDA; None for what the system does not report."""

    name: str
    driver: str | None = None
    memory_mib: int | None = None
    compute_capability: str | None = None


FIRST_CUDA_13_DRIVER: Final = 580


def tensorrt_packages(gpu: Gpu) -> str:
    """Return the arguments of `pip install` that bring TensorRT and a CUDA adapter for the driver of `gpu`."""
    major = (gpu.driver or "").split(".")[0]
    return TENSORRT_PACKAGES[13 if major.isdigit() and int(major) >= FIRST_CUDA_13_DRIVER else 12]


def find_gpus(root: Path = Path("/"), *, smi: str | None = None) -> list[Gpu]:
    """List the NVIDIA GPUs of this machine. `smi` is the path of `nvidia-smi`; by default it is searched in PATH."""
    if not any((root / node).exists() for node in DRIVER_PATHS):
        return []
    smi = smi or shutil.which("nvidia-smi")
    for fields in (FIELDS, OLD_FIELDS) if smi else ():
        if gpus := _query_smi(smi or "", fields):
            return gpus
    return _from_proc(root) or _from_tegra(root)


def _query_smi(smi: str, fields: tuple[str, ...]) -> list[Gpu]:
    command = [smi, f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"]
    try:
        output = subprocess.run(command, capture_output=True, text=True, timeout=QUERY_S, check=True).stdout
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return []
    gpus = []
    for line in output.splitlines():
        cells = [cell.strip() for cell in line.split(",")]
        if len(cells) != len(fields):
            return []
        values = dict(zip(fields, cells, strict=True))
        memory = values["memory.total"]
        gpus.append(
            Gpu(
                name=values["name"],
                driver=values["driver_version"],
                memory_mib=int(memory) if memory.isdigit() else None,
                compute_capability=values.get("compute_cap"),
            )
        )
    return gpus


def _from_proc(root: Path) -> list[Gpu]:
    version = re.search(r"Kernel Module\s+(?:for \S+\s+)?([\d.]+)", _read_text(root / "proc/driver/nvidia/version"))
    gpus = []
    for path in sorted((root / "proc/driver/nvidia/gpus").glob("*/information")):
        model = re.search(r"^Model:\s*(.+)$", _read_text(path), re.MULTILINE)
        gpus.append(Gpu(name=model[1].strip() if model else "NVIDIA GPU", driver=version[1] if version else None))
    return gpus


def _from_tegra(root: Path) -> list[Gpu]:
    if not (root / "etc/nv_tegra_release").exists():
        return []
    model = _read_text(root / "proc/device-tree/model").strip("\0 \n")
    return [Gpu(name=model or "NVIDIA Jetson")]


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
