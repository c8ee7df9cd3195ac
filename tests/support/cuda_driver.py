"""Build `libcuda.so.1` from cuda_driver.c, with a stub for each other function that PyCUDA links."""

from __future__ import annotations

import importlib.util
import re
import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_name("cuda_driver.c")


def build_driver(folder: Path) -> Path:
    """Build the library in `folder` and return its path."""
    stubs = folder / "stubs.c"
    stubs.write_text("\n".join(f"int {name}(void) {{ return 801; }}" for name in _functions_only_pycuda_links()))
    target = folder / "libcuda.so.1"
    subprocess.run(
        ["gcc", "-shared", "-fPIC", "-w", str(SOURCE), str(stubs), "-o", str(target), "-Wl,-soname,libcuda.so.1"],
        timeout=60,
        check=True,
    )
    return target


def _functions_only_pycuda_links() -> list[str]:
    spec = importlib.util.find_spec("pycuda")
    if spec is None or spec.origin is None:
        return []
    (extension,) = Path(spec.origin).parent.glob("_driver*.so")
    symbols = subprocess.run(
        ["nm", "-D", "--undefined-only", str(extension)], capture_output=True, text=True, timeout=60, check=True
    ).stdout
    implemented = set(re.findall(r"^int (cu\w+)\(", SOURCE.read_text(), re.MULTILINE))
    return sorted(set(re.findall(r"U (cu[A-Z]\w+)", symbols)) - implemented)
