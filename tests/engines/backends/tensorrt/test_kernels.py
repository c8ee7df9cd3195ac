"""The PTX kernels move the right rows, as an interpreter of their instructions shows without a GPU."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.ptx import Memory, run_kernel

import engines.backends.tensorrt.memory

PTX = Path(engines.backends.tensorrt.memory.__file__).with_name("kernels.ptx")
BASE = {"p_to": 0x10_0000_0000, "p_source": 0x20_0000_0000, "p_rows": 0x30_0000_0000}
"""Addresses of more than 32 bits, so that a kernel with an address in a 32-bit register fails."""


def run(name: str, words: int, rows: np.ndarray, sizes: dict[str, int], grid_y: int, threads: int) -> dict[str, Any]:
    """Run a kernel over the whole grid; return the arrays of words."""
    memory = {
        "p_to": np.full(sizes["p_to"], 0xDEAD, np.uint32),
        "p_source": np.arange(sizes["p_source"], dtype=np.uint32),
        "p_rows": rows.astype(np.uint32),
    }
    blocks = Memory({BASE[name]: array.view(np.uint8) for name, array in memory.items()})
    run_kernel(PTX.read_text(), name, [*BASE.values(), words], blocks, grid=(len(rows), grid_y), block=threads)
    return memory


@pytest.mark.parametrize(("words", "grid_y", "threads"), [(1, 1, 4), (5, 1, 4), (8, 1, 4), (23, 2, 4), (7, 3, 4)])
def test_gather_copies_the_requested_rows(words: int, grid_y: int, threads: int) -> None:
    rows = np.array([3, 0, 3, 6])
    memory = run("gather_rows", words, rows, {"p_to": 4 * words, "p_source": 7 * words}, grid_y, threads)
    source = memory["p_source"].reshape(7, words)
    np.testing.assert_array_equal(memory["p_to"].reshape(4, words), source[rows])


@pytest.mark.parametrize(("words", "grid_y", "threads"), [(1, 1, 4), (5, 1, 4), (8, 1, 4), (23, 2, 4), (7, 3, 4)])
def test_scatter_writes_only_the_requested_rows(words: int, grid_y: int, threads: int) -> None:
    rows = np.array([5, 0, 3])
    memory = run("scatter_rows", words, rows, {"p_to": 7 * words, "p_source": 3 * words}, grid_y, threads)
    expected = np.full((7, words), 0xDEAD, np.uint32)
    expected[rows] = memory["p_source"].reshape(3, words)
    np.testing.assert_array_equal(memory["p_to"].reshape(7, words), expected)


@pytest.mark.skipif(shutil.which("ptxas") is None, reason="needs the CUDA toolkit's assembler")
def test_nvidias_assembler_accepts_the_kernels(tmp_path: Path) -> None:
    subprocess.run(["ptxas", "-arch=sm_90", str(PTX), "-o", str(tmp_path / "out")], check=True, timeout=60)
