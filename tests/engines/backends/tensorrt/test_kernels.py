"""The PTX kernels move the right rows, as an interpreter of their instructions shows without a GPU."""

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import engines.backends.tensorrt.memory

PTX = Path(engines.backends.tensorrt.memory.__file__).with_name("kernels.ptx")
BASE = {"p_to": 0x10_0000_0000, "p_source": 0x20_0000_0000, "p_rows": 0x30_0000_0000}
"""Addresses of more than 32 bits, so that a kernel with an address in a 32-bit register fails."""


def run(name: str, words: int, rows: np.ndarray, sizes: dict[str, int], grid_y: int, threads: int) -> dict[str, Any]:
    """Run a kernel over the whole grid, one thread after the other; return the arrays of words."""
    memory = {
        "p_to": np.full(sizes["p_to"], 0xDEAD, np.uint32),
        "p_source": np.arange(sizes["p_source"], dtype=np.uint32),
        "p_rows": rows.astype(np.uint32),
    }
    body = re.search(rf"\.entry {name}\(.*?\)\s*\{{(.*?)\n\}}", PTX.read_text(), re.DOTALL)
    assert body
    code: list[str] = []
    labels: dict[str, int] = {}
    for line in body[1].splitlines():
        line = line.split("//")[0].strip().rstrip(";")
        if line.endswith(":"):
            labels[line[:-1]] = len(code)
        elif line and not line.startswith(".reg"):
            code.append(line)
    for x in range(len(rows)):
        for y in range(grid_y):
            for thread in range(threads):
                special = {"%ntid.x": threads, "%ctaid.x": x, "%ctaid.y": y, "%tid.x": thread, "%nctaid.y": grid_y}
                _thread(code, labels, memory, {**special, "p_words": words})
    return memory


def _thread(code: list[str], labels: dict[str, int], memory: dict[str, Any], registers: dict[str, Any]) -> None:
    def value(name: str) -> int:
        return int(name) if name.lstrip("-").isdigit() else registers[name]

    def cell(operand: str) -> tuple[Any, int]:
        address = registers[operand.strip("[]")]
        base = next(key for key, start in BASE.items() if start <= address < start + (1 << 32))
        offset = address - BASE[base]
        assert offset % 4 == 0
        assert offset // 4 < len(memory[base]), "illegal memory access"
        return memory[base], offset // 4

    alu: dict[str, Callable[..., int]] = {
        "cvta.to.global.u64": lambda a: a,
        "mov.u32": lambda a: a,
        "cvt.u64.u32": lambda a: a,
        "mad.lo.u32": lambda a, b, c: (a * b + c) % 2**32,
        "mul.lo.u32": lambda a, b: a * b % 2**32,
        "mul.wide.u32": lambda a, b: a * b,
        "add.u64": lambda a, b: (a + b) % 2**64,
        "add.u32": lambda a, b: (a + b) % 2**32,
        "shl.b64": lambda a, b: (a << b) % 2**64,
        "setp.ge.u32": lambda a, b: a >= b,
    }
    position = steps = 0
    while True:
        steps += 1
        assert steps < 10_000, "the loop does not end"
        op, *operands = re.split(r"[\s,]+", code[position])
        position += 1
        if op.startswith("@"):
            if not registers[op[1:]]:
                continue
            op, *operands = operands
        if op == "ret":
            return
        if op == "bra":
            position = labels[operands[0]]
        elif op.startswith("ld.param"):
            name = operands[1].strip("[]")
            registers[operands[0]] = BASE[name] if name in BASE else registers[name]
        elif op == "ld.global.u32":
            array, index = cell(operands[1])
            registers[operands[0]] = int(array[index])
        elif op == "st.global.u32":
            array, index = cell(operands[0])
            array[index] = registers[operands[1]]
        else:
            registers[operands[0]] = alu[op](*map(value, operands[1:]))


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
