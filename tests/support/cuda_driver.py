"""Build `libcuda.so.1` from cuda_driver.c, with a stub for each other function that PyCUDA or FFmpeg asks for."""

from __future__ import annotations

import importlib.util
import re
import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_name("cuda_driver.c")


def build_driver(folder: Path) -> Path:
    """Build the library in `folder` and return its path."""
    stubs = folder / "stubs.c"
    names = sorted((_functions_pycuda_links() | _functions_ffmpeg_loads()) - _implemented())
    stubs.write_text("\n".join(f"int {name}(void) {{ return 801; }}" for name in names))
    target = folder / "libcuda.so.1"
    subprocess.run(
        ["gcc", "-shared", "-fPIC", "-w", str(SOURCE), str(stubs), "-o", str(target), "-Wl,-soname,libcuda.so.1"],
        timeout=60,
        check=True,
    )
    return target


def _implemented() -> set[str]:
    return set(re.findall(r"^int (cu\w+)\(", SOURCE.read_text(), re.MULTILINE))


def _functions_pycuda_links() -> set[str]:
    spec = importlib.util.find_spec("pycuda")
    if spec is None or spec.origin is None:
        return set()
    (extension,) = Path(spec.origin).parent.glob("_driver*.so")
    symbols = subprocess.run(
        ["nm", "-D", "--undefined-only", str(extension)], capture_output=True, text=True, timeout=60, check=True
    ).stdout
    return set(re.findall(r"U (cu[A-Z]\w+)", symbols))


def _functions_ffmpeg_loads() -> set[str]:
    """Return the functions without which PyAV's FFmpeg opens no CUDA device."""
    spec = importlib.util.find_spec("av")
    assert spec is not None
    assert spec.origin is not None
    libraries = list(Path(spec.origin).parents[1].glob("av.libs/libavutil*"))
    return {name.decode() for path in libraries for name in re.findall(rb"\0(cu[A-Z]\w+)(?=\0)", path.read_bytes())}
