"""A label has one colour in the terminal and in films, and no two colours look alike."""

from __future__ import annotations

import subprocess
import sys
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamclf.render import overlay, terminal_table
from streamclf.render.palette import CALM, CALM_LABELS, INK, LABELS, STATES, bgr, label_bgr, label_hex


def luminance(colour: str) -> float:
    """Return the relative luminance as in WCAG 2.1."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (v / 255 for v in bgr(colour))]
    return 0.0722 * linear[0] + 0.7152 * linear[1] + 0.2126 * linear[2]


def contrast(one: str, other: str) -> float:
    dark, light = sorted([luminance(one), luminance(other)])
    return (light + 0.05) / (dark + 0.05)


def lab(colour: str) -> tuple[float, float, float]:
    """Convert to OKLab (Ottosson 2020), where distances are about as people perceive them."""
    b, g, r = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (v / 255 for v in bgr(colour)))
    long = (0.4122214708 * r + 0.5363325363 * g + 0.0514459929 * b) ** (1 / 3)
    medium = (0.2119034982 * r + 0.6806995451 * g + 0.1073969566 * b) ** (1 / 3)
    short = (0.0883024619 * r + 0.2817188376 * g + 0.6299787005 * b) ** (1 / 3)
    return (
        0.2104542553 * long + 0.7936177850 * medium - 0.0040720468 * short,
        1.9779984951 * long - 2.4285922050 * medium + 0.4505937099 * short,
        0.0259040371 * long + 0.7827717662 * medium - 0.8086757660 * short,
    )


def test_terminal_and_overlay_use_the_same_colour() -> None:
    for label in ("normal", "covered", "wave", ""):
        assert bgr(label_hex(label)) == label_bgr(label)
    assert terminal_table.label_hex is label_hex
    assert overlay.label_bgr is label_bgr


@pytest.mark.parametrize("label", ["normal", "Normal", "none", "unknown", "background"])
def test_labels_that_need_no_attention_are_green(label: str) -> None:
    assert label_hex(label) == CALM


def test_the_labels_of_the_built_in_model_have_different_colours() -> None:
    labels = ["normal", "covered", "defocused", "moved", "shaking", "flashing", "noise"]
    assert len({label_hex(label) for label in labels}) == len(labels)


@given(st.text(max_size=50))
def test_any_other_label_is_not_green(label: str) -> None:
    assert (label_hex(label) == CALM) == (label.casefold() in CALM_LABELS)
    assert label_hex(label) in (*LABELS, CALM)


def test_dark_text_has_enough_contrast_on_each_colour() -> None:
    assert min(contrast(colour, INK) for colour in (*LABELS, CALM)) >= 7
    assert min(contrast(colour, INK) for colour in STATES.values()) >= 4.5


def test_no_two_colours_look_alike() -> None:
    def distance(one: str, other: str) -> float:
        return sum((a - b) ** 2 for a, b in zip(lab(one), lab(other), strict=True)) ** 0.5

    assert min(distance(a, b) for a, b in combinations((*LABELS, CALM), 2)) >= 0.06


def test_the_palette_imports_no_library() -> None:
    code = (
        "import sys, streamclf.render.palette; sys.exit(bool({'cv2', 'numpy', 'rich', 'pydantic'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=30).returncode == 0
