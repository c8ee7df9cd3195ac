"""Check before the start whether this machine has the GPUs that a configuration lists."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence

from engines.backends.choice import missing_libraries
from engines.backends.gpu import Gpu, find_gpus, tensorrt_packages
from engines.backends.names import GPU_BACKEND
from streamclf.config.engine import EngineConfig


def find_missing_devices(
    engine: EngineConfig, *, gpus: Callable[[], Sequence[Gpu]] = find_gpus, environ: Mapping[str, str] = os.environ
) -> Iterator[str]:
    """Yield a problem for each listed GPU that this machine does not have, and for a missing library."""
    if engine.devices is None:
        return
    found = gpus()
    if not found:
        yield "engine.devices: no NVIDIA GPU is visible here; install its driver, or leave the key out"
        return
    if lacking := missing_libraries(GPU_BACKEND):
        yield f"engine.devices: {' and '.join(lacking)} not installed; pip install {tensorrt_packages(found[0])}"
    visible = environ.get("CUDA_VISIBLE_DEVICES")  # the numbers count the GPUs that it lists
    count = len(found) if visible is None else min(len(found), len([each for each in visible.split(",") if each]))
    for number in engine.devices:
        if number >= count:
            numbers = ", ".join(map(str, range(count))) or "none"
            yield f"engine.devices: GPU {number}: this machine has the numbers {numbers}; the others would serve alone"
