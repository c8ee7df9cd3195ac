"""Interpret a kernel's PTX text without a GPU: all threads of a grid at once, each instruction over NumPy arrays.

Threads may take different branches: the interpreter executes the instruction with the lowest position that any thread
has reached, for the threads that are there. Only the instructions that our kernels use are known.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Words = npt.NDArray[np.uint64]
MAX_STEPS = 20_000
_MASK = {"32": np.uint64(0xFFFFFFFF), "64": np.uint64(0xFFFFFFFFFFFFFFFF)}


class Memory:
    """Allocations by address. An access outside of one, or one that is not aligned, fails."""

    def __init__(self, blocks: Mapping[int, npt.NDArray[np.uint8]]) -> None:
        self._blocks = dict(blocks)

    def find(self, addresses: Words, size: int) -> list[tuple[npt.NDArray[np.uint8], npt.NDArray[np.intp], Any]]:
        """Return (allocation, index in units of `size`, lanes) for each allocation that is accessed."""
        found, left = [], np.ones(len(addresses), bool)
        for base, block in self._blocks.items():
            inside = (addresses >= base) & (addresses + np.uint64(size) <= base + block.nbytes)
            if inside.any():
                offsets = (addresses[inside] - np.uint64(base)).astype(np.intp)
                assert not (offsets % size).any(), "misaligned address"
                found.append((block[: block.nbytes // size * size], offsets // size, inside))
                left &= ~inside
        assert not left.any(), "illegal memory access"
        return found


def run_kernel(
    text: str,
    name: str,
    arguments: Sequence[int],
    memory: Memory,
    *,
    grid: tuple[int, int],
    block: int,
) -> None:
    """Run the kernel `name` of `text` with `arguments`, in the order of its parameters."""
    entry = re.search(rf"\.entry {name}\((.*?)\)\s*\{{(.*?)\n\}}", text, re.DOTALL)
    assert entry, f"no kernel {name}"
    parameters = dict(zip(re.findall(r"\.param \.u\d+ (\w+)", entry[1]), arguments, strict=True))
    code, labels = _parse(entry[2])
    y, x, thread = (part.ravel().astype(np.uint64) for part in np.mgrid[: grid[1], : grid[0], :block])
    fixed = {"%ntid.x": np.full_like(x, block), "%nctaid.y": np.full_like(x, grid[1])}
    lanes = _Lanes(parameters, memory, {"%ctaid.x": x, "%ctaid.y": y, "%tid.x": thread, **fixed})
    position = np.zeros(len(x), np.intp)
    end = len(code)
    for _ in range(MAX_STEPS):
        here = int(position.min())
        if here == end:
            return
        chosen = np.flatnonzero(position == here)
        predicate, operation, operands = code[here]
        position[chosen] = here + 1
        if predicate:
            holds = lanes.registers[predicate.lstrip("@!")][chosen] != (1 if "!" in predicate else 0)
            chosen = chosen[holds]
        if operation == "ret":
            position[chosen] = end
        elif operation == "bra":
            position[chosen] = labels[operands[0]]
        elif len(chosen):
            lanes.execute(operation, operands, chosen)
    raise AssertionError("the kernel does not end")


def _parse(body: str) -> tuple[list[tuple[str, str, list[str]]], dict[str, int]]:
    code: list[tuple[str, str, list[str]]] = []
    labels: dict[str, int] = {}
    for line in body.splitlines():
        text = line.split("//")[0].strip().rstrip(";")
        if text.endswith(":"):
            labels[text[:-1]] = len(code)
        elif text and not text.startswith(".reg"):
            operation, *operands = re.split(r"[\s,]+", text)
            predicate = ""
            if operation.startswith("@"):
                predicate, operation, *operands = operation, *operands
            code.append((predicate, operation, operands))
    return code, labels


def _signed(values: Words) -> npt.NDArray[np.int64]:
    return values.astype(np.uint32).view(np.int32).astype(np.int64)


def _words(values: npt.NDArray[Any]) -> Words:
    return values.astype(np.int64).view(np.uint64)


_ALU: dict[str, Callable[..., Words]] = {
    "cvta.to.global.u64": lambda a: a,
    "mov.u32": lambda a: a,
    "mov.u64": lambda a: a,
    "cvt.u64.u32": lambda a: a,
    "add.u32": lambda a, b: a + b,
    "add.u64": lambda a, b: a + b,
    "sub.u32": lambda a, b: a - b,
    "mul.lo.u32": lambda a, b: a * b,
    "mul.lo.s32": lambda a, b: a * b,
    "mul.wide.u32": lambda a, b: a * b,
    "mad.lo.u32": lambda a, b, c: a * b + c,
    "mad.lo.s32": lambda a, b, c: a * b + c,
    "shl.b32": lambda a, b: a << b,
    "shl.b64": lambda a, b: a << b,
    "shr.u32": lambda a, b: a >> b,
    "shr.s32": lambda a, b: _words(_signed(a) >> b.astype(np.int64)),
    "min.s32": lambda a, b: _words(np.minimum(_signed(a), _signed(b))),
    "max.s32": lambda a, b: _words(np.maximum(_signed(a), _signed(b))),
    "setp.ge.u32": lambda a, b: (a >= b).astype(np.uint64),
    "setp.lt.u32": lambda a, b: (a < b).astype(np.uint64),
    "setp.ne.u32": lambda a, b: (a != b).astype(np.uint64),
    "setp.eq.u32": lambda a, b: (a == b).astype(np.uint64),
}
_TYPES = {"u8": np.uint8, "u16": np.uint16, "u32": np.uint32}


class _Lanes:
    """The registers of all threads: arrays of 64-bit words, one for each thread."""

    def __init__(self, parameters: Mapping[str, int], memory: Memory, registers: dict[str, Words]) -> None:
        self.registers = registers
        self._parameters, self._memory = parameters, memory
        self._count = len(registers["%tid.x"])

    def execute(self, operation: str, operands: Sequence[str], lanes: npt.NDArray[np.intp]) -> None:
        """Execute an instruction for some threads."""
        if operation.startswith("ld.param"):
            self._store(operands[0], np.full(len(lanes), self._parameters[operands[1].strip("[]")], np.uint64), lanes)
        elif operation.startswith("ld.global"):
            kind = _TYPES[operation.rpartition(".")[2]]
            values = np.zeros(len(lanes), np.uint64)
            for block, index, chosen in self._memory.find(self._address(operands[1], lanes), np.dtype(kind).itemsize):
                values[chosen] = block.view(kind)[index]
            self._store(operands[0], values, lanes)
        elif operation.startswith("st.global"):
            kind = _TYPES[operation.rpartition(".")[2]]
            values = self._value(operands[1], lanes)
            for block, index, chosen in self._memory.find(self._address(operands[0], lanes), np.dtype(kind).itemsize):
                block.view(kind)[index] = values[chosen].astype(kind)
        else:
            values = _ALU[operation](*(self._value(operand, lanes) for operand in operands[1:]))
            is_wide = operation.endswith("64") or ".wide." in operation or operation.startswith("cvt.u64")
            self._store(operands[0], values & _MASK["64" if is_wide else "32"], lanes)

    def _address(self, operand: str, lanes: npt.NDArray[np.intp]) -> Words:
        register, _, offset = operand.strip("[]").partition("+")
        return self._value(register, lanes) + np.uint64(offset or 0)

    def _value(self, operand: str, lanes: npt.NDArray[np.intp]) -> Words:
        if operand.lstrip("-").isdigit():
            return np.full(len(lanes), int(operand) % (1 << 64), np.uint64)
        return self.registers[operand][lanes]

    def _store(self, register: str, values: Words, lanes: npt.NDArray[np.intp]) -> None:
        self.registers.setdefault(register, np.zeros(self._count, np.uint64))[lanes] = values
