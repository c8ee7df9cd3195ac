"""Choose the backend for `auto`: the fastest one whose library and device this machine has."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from engines.backends.gpu import Gpu, find_gpus, tensorrt_packages
from engines.backends.names import INSTALL, LIBRARIES, Backend

CPU_BACKENDS: Final[tuple[tuple[Backend, str], ...]] = (
    ("openvino", "the fastest on a CPU"),
    ("onnxruntime", "portable"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendChoice:
    """The backends to try, best first, with the reason for the first one and the way to get a better one."""

    order: tuple[Backend, ...]
    reason: str
    advice: tuple[str, ...] = ()


def choose_backend(
    *, gpus: Callable[[], Sequence[Gpu]] = find_gpus, missing: Callable[[str], Sequence[str]] | None = None
) -> BackendChoice:
    """Rank the installed backends for this machine; `order` is empty if no backend's library is installed.

    `gpus` finds the NVIDIA GPUs, `missing` the libraries of a backend that are not installed; tests replace both.
    """
    missing = missing or missing_libraries
    found, advice, reasons = list(gpus()), [], []
    order: list[Backend] = []
    if found and not (lacking := missing("tensorrt")):
        order.append("tensorrt")
        reasons.append(f"{found[0].name} and TensorRT are here")
    elif found:
        reasons.append(f"{found[0].name} is here, but not {' and '.join(lacking)}")
        advice.append(f"pip install {tensorrt_packages(found[0])} to run on {found[0].name}")
    else:
        reasons.append("no NVIDIA GPU is visible")
    for backend, speed in CPU_BACKENDS:
        if not missing(backend):
            if not order:
                reasons.append(f"{backend} is {speed}")
            order.append(backend)
        elif backend == "openvino":
            advice.append(f"pip install {INSTALL[backend]}: it is 2 to 4 times as fast as onnxruntime on a CPU")
    return BackendChoice(order=tuple(order), reason="; ".join(reasons), advice=tuple(advice))


def missing_libraries(backend: str) -> list[str]:
    """List the libraries of `backend` that are not installed."""
    return [" or ".join(group) for group in LIBRARIES[backend] if not any(map(is_installed, group))]


def is_installed(module: str) -> bool:
    """Return whether a module is installed, without importing it."""
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # a package above it is not installed
        return False
