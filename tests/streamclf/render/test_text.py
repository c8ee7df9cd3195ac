"""Lines of text are drawn in the order in which their script is read."""

from __future__ import annotations

import pytest

from streamclf.render.text import text_width, visual_order, wrap

SHIN, LAMED, VAV, MEM = "\u05e9\u05dc\u05d5\u05dd"


@pytest.mark.parametrize(
    ("text", "drawn"),
    [
        ("fall [person] 12", "fall [person] 12"),
        (SHIN + LAMED, LAMED + SHIN),
        (f"{SHIN}{LAMED} {VAV}{MEM}", f"{MEM}{VAV} {LAMED}{SHIN}"),
        (f"{SHIN}{LAMED} 12 {VAV}{MEM}", f"{MEM}{VAV} 12 {LAMED}{SHIN}"),
        (f"{SHIN}{LAMED} ({VAV})", f"({VAV}) {LAMED}{SHIN}"),
        (f"cam {SHIN}{LAMED} in", f"cam {LAMED}{SHIN} in"),
        (f"{SHIN}{LAMED} abc", f"abc {LAMED}{SHIN}"),
        ("", ""),
    ],
)
def test_scripts_from_right_to_left_are_drawn_in_their_order(text: str, drawn: str) -> None:
    assert visual_order(text) == drawn


def test_a_text_is_wrapped_at_spaces_and_loses_no_word_unless_there_are_too_many_lines() -> None:
    text = "rtsp://10.0.0.7/live: connection refused; check address and port, and that the server runs"
    lines = wrap(text, 14, 300, 4)
    assert len(lines) > 1
    assert " ".join(lines) == text
    assert all(text_width(line, 14, bold=False) <= 300 for line in lines)
    assert wrap(text, 14, 300, 1)[0].endswith("...")
    assert wrap("", 14, 300, 4) == []
