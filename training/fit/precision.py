"""The precision in which this machine trains."""

from __future__ import annotations

from pathlib import Path
from typing import Final

_FEATURES: Final = frozenset({"avx512_bf16", "amx_bf16", "bf16"})
"""Instructions for bfloat16 by the kernel's names, on x86 and on Arm."""


def cpu_has_bfloat16(cpu_info: Path = Path("/proc/cpuinfo")) -> bool:
    """Tell whether this CPU has instructions for bfloat16; True if the kernel does not list any instructions.

    Without them, PyTorch multiplies matrices in bfloat16 about 30 times more slowly than in float32.
    """
    try:
        return not _FEATURES.isdisjoint(cpu_info.read_text(encoding="utf-8", errors="replace").split())
    except OSError:
        return True
