"""Builds `libcuda.so.1` from cuda_driver.c, with a stub for everything else that PyCUDA links."""

from __future__ import annotations

import importlib.util
import re
import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_name("cuda_driver.c")


def build(folder: Path) -> Path:
    """The library, in `folder`."""
    spec = importlib.util.find_spec("pycuda")
    assert spec
    assert spec.origin
    (extension,) = Path(spec.origin).parent.glob("_driver*.so")
    symbols = subprocess.run(
        ["nm", "-D", "--undefined-only", str(extension)], capture_output=True, text=True, timeout=60, check=True
    ).stdout
    ours = set(re.findall(r"^int (cu\w+)\(", SOURCE.read_text(), re.MULTILINE))
    needed = sorted(set(re.findall(r"U (cu[A-Z]\w+)", symbols)) - ours)
    stubs = folder / "stubs.c"
    stubs.write_text("\n".join(f"int {name}(void) {{ return 801; }}" for name in needed))
    target = folder / "libcuda.so.1"
    subprocess.run(
        ["gcc", "-shared", "-fPIC", "-w", str(SOURCE), str(stubs), "-o", str(target), "-Wl,-soname,libcuda.so.1"],
        timeout=60,
        check=True,
    )
    return target
