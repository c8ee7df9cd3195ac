"""Run a service whose classifiers use the GPU double, with two GPUs: see `install`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SITE = """
import sys
if any(name in sys.orig_argv for name in ("streamclf.classifier", "engines.build_process")):
    from support.two_gpus import use_double
    use_double()
"""
FOLDER = "STREAMCLF_TEST_GPUS"
"""Variable with a folder: a GPU N cannot be opened while it has a file `broken-N`."""


def install(folder: Path) -> dict[str, str]:
    """Return the environment of a service that uses the double; a file `broken-N` in `folder` breaks the GPU N."""
    (folder / "sitecustomize.py").write_text(SITE)
    # The root must come before tests/, which has folders with the names of the packages.
    path = os.pathsep.join([str(folder), str(ROOT), str(ROOT / "tests")])
    return {"PYTHONPATH": path, FOLDER: str(folder)}


def use_double() -> None:
    """Replace the GPUs and TensorRT in this process."""
    from support.gpu_double import double_platform

    import engines.backends.tensorrt
    import engines.opening
    from engines.backends.tensorrt.driver_values import check_device_number
    from engines.backends.tensorrt.interface import Platform
    from engines.errors import BackendMissingError

    def load_platform(device: int | None) -> Platform:
        try:
            check_device_number(device or 0, 2)
        except ValueError as error:
            raise BackendMissingError(f"backend tensorrt: {error}") from None
        if (Path(os.environ[FOLDER]) / f"broken-{device}").exists():
            raise BackendMissingError("backend tensorrt: CUDA does not start: the GPU has fallen off the bus")
        print(f"opened GPU {device}", file=sys.stderr, flush=True)
        return double_platform(memory_bytes=1 << 28)

    engines.backends.tensorrt.load_platform = load_platform  # type: ignore[assignment]
    engines.opening.missing_libraries = lambda backend: []  # type: ignore[assignment]
