"""The overlay draws any text on a frame of any size, and leaves the frame itself unchanged."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamclf.render import text
from streamclf.render.overlay import OverlayState, draw
from streamclf.render.overlay_views import OverlayView
from streamclf.render.palette import label_bgr
from streamclf.render.text import MAX_CHARS, drawable, text_width

STATE = OverlayState(
    stream="door",
    top=[("wave", 0.9), ("still", 0.08), ("other", 0.02)],
    history=[("wave", 0.5), ("still", 0.7)] * 50,
    rate_per_s=12.0,
    latency_ms=48.0,
    actions=("wave",),
)


def frame(height: int, width: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.full((height, width, 3), 128, np.uint8)


@pytest.mark.parametrize(
    ("size", "drawn"),
    [
        ((360, 640), (360, 640)),
        ((1080, 1920), (1080, 1920)),
        ((28, 28), (280, 280)),
        ((1, 1), (270, 270)),
        ((640, 300), (640, 300)),
    ],
)
def test_small_frames_are_enlarged_so_that_text_can_be_read(size: tuple[int, int], drawn: tuple[int, int]) -> None:
    result = draw(frame(*size), STATE)
    assert result.shape == (*drawn, 3)
    assert result.dtype == np.uint8


def test_text_is_drawn_on_one_line_with_composed_accents() -> None:
    assert drawable("Gro\u0308ße\n[x] \x1b[31m").endswith(r"ße [x] \x1b[31m")
    assert len(drawable("x" * 1000)) == MAX_CHARS
    if hasattr(cv2, "FontFace"):
        assert drawable("cafe\u0301 łódź 落下") == "café łódź 落下"


def test_without_a_scalable_font_accents_are_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "_HAS_SCALABLE_FONT", False)
    for function in (text.drawable, text._has_glyph):
        monkeypatch.setattr(text, function.__name__, function.__wrapped__)  # without the cache
    assert text.drawable("café ÅÄ \U0001f697 落") == "cafe AA :automobile: ?"


def test_a_symbol_that_the_font_lacks_is_drawn_by_its_name() -> None:
    assert drawable("a \U0001f697\ufe0f") == "a :automobile:"
    width = text_width("a", 20, bold=False)
    assert text_width(drawable("a \U0001f697"), 20, bold=False) > 3 * width


def test_the_given_frame_is_not_changed() -> None:
    original = frame(360, 640)
    draw(original, STATE)
    assert (original == 128).all()


def test_plate_bar_and_timeline_have_the_colour_of_the_label() -> None:
    result = draw(frame(360, 640), STATE)
    colour = np.array(label_bgr("wave"))
    near = (np.abs(result.astype(int) - colour) < 12).all(axis=2)
    assert near[230:280, :150].sum() > 500  # the chip
    assert near[280:330, 120:280].sum() > 200  # its bar
    assert near[345:].sum() > 300  # the timeline
    assert not near[:200].any()


@given(
    label=st.text(max_size=200),
    stream=st.text(max_size=80),
    probability=st.floats(0, 1),
    state=st.sampled_from(["live", "offline", "stalled", "?"]),
    height=st.integers(1, 700),
    width=st.integers(1, 700),
)
def test_any_text_on_any_size_can_be_drawn(
    label: str, stream: str, probability: float, state: str, height: int, width: int
) -> None:
    if max(height, width) / min(height, width) > 20:
        height = width
    overlay = OverlayState(
        stream=stream, state=state, reason=label, top=[(label, probability)], history=[(label, probability)]
    )
    assert min(draw(frame(height, width), overlay).shape[:2]) >= 270


def views(*names: str, label: str = "wave", actions: tuple[str, ...] = ()) -> list[OverlayView]:
    return [
        OverlayView(name=name, region=name, present=[(label, 0.9)], actions=actions, area=(0.1, 0.2, 0.4, 0.5))
        for name in names
    ]


def test_the_rectangle_of_a_region_is_where_its_shares_say() -> None:
    area = (0.25, 0.2, 0.75, 0.6)
    view = OverlayView(name="gate", region="gate", present=[("wave", 0.9)], area=area, actions=("wave",))
    drawn = draw(frame(400, 800), OverlayState(stream="door", views=[view]))
    for y, x in ((160, 200), (160, 599), (239, 400)):  # the middle of the left, the right and the lower edge
        assert np.abs(drawn[y, x].astype(int) - label_bgr("wave")).max() < 60, (y, x)
    plain = draw(frame(400, 800), OverlayState(stream="door", views=[replace(view, area=None)]))
    assert np.abs(plain[160, 200].astype(int) - label_bgr("wave")).max() > 60


def test_each_view_has_a_row_of_its_own_also_with_equal_labels() -> None:
    one = draw(frame(400, 800), OverlayState(stream="door", views=views("gate")))
    two = draw(frame(400, 800), OverlayState(stream="door", views=views("gate", "yard")))

    def plates(image: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> int:
        """Count the plates in the colour of the label below the rectangles."""
        mask = np.all(np.abs(image[260:].astype(int) - label_bgr("wave")) < 20, axis=2).astype(np.uint8)
        _, _, stats, _ = cv2.connectedComponentsWithStats(mask)
        return int((stats[1:, cv2.CC_STAT_AREA] > 200).sum())

    assert (plates(one), plates(two)) == (1, 2)


def test_many_views_with_any_names_and_labels_fit_into_any_frame() -> None:
    names = [f"region-{number}-{'x' * 60}" for number in range(64)]
    state = OverlayState(stream="door", views=views(*names[:8], label="\x1b[31m落下" * 30, actions=("other",) * 9))
    many = OverlayState(stream="door", views=[OverlayView(name=name, present=None) for name in names])
    for size in ((1, 1), (28, 28), (360, 640), (1080, 1920), (640, 120)):
        for each in (state, many):
            assert draw(frame(*size), each).dtype == np.uint8


def test_a_model_with_several_labels_shows_all_that_apply_or_none() -> None:
    top = [("fall", 0.9), ("open", 0.8), ("other", 0.1)]

    def has_colour(state: OverlayState, label: str) -> bool:
        plate = draw(frame(400, 640), state)[272:300]  # above the bars
        return bool((np.abs(plate.astype(int) - label_bgr(label)).max(axis=2) < 16).sum() > 100)

    several = OverlayState(stream="hall", top=top, present=top[:2])
    assert [has_colour(several, label) for label, _ in top] == [True, True, False]
    none = OverlayState(stream="hall", top=top, present=[])
    assert [has_colour(none, label) for label, _ in top] == [False, False, False]
