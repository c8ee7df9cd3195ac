"""A CPU's instructions for bfloat16 are found where the kernel lists them."""

from __future__ import annotations

from pathlib import Path

import pytest

from training.fit.precision import cpu_has_bfloat16


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("flags\t\t: fpu sse2 avx2 avx512f avx512_bf16 clwb\n", True),
        ("flags\t\t: fpu sse2 avx512f amx_bf16 amx_tile\n", True),
        ("Features\t: fp asimd i8mm bf16\n", True),
        ("flags\t\t: fpu sse2 avx2 fma avx512f avx512_vnni\n", False),
        ("Features\t: fp asimd asimdhp\n", False),
    ],
)
def test_instructions_are_found_by_name(tmp_path: Path, text: str, expected: bool) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text(f"processor\t: 0\n{text}")
    assert cpu_has_bfloat16(path) is expected


def test_the_recipe_decides_where_the_kernel_lists_nothing(tmp_path: Path) -> None:
    assert cpu_has_bfloat16(tmp_path / "none")
