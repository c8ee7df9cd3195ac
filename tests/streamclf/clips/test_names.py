"""Names of clips: any label gives a safe name, and no path from outside leads out of the folder."""

from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone

import pytest

from streamclf.clips.names import MAX_SLUG_CHARS, clip_name, label_slug, parse_clip_path
from streamclf.events.types import CLIP_PATH_PATTERN

BEGAN = datetime(2026, 11, 29, 23, 59, 58, 7999, tzinfo=timezone.utc)


def test_a_name_holds_the_time_in_utc() -> None:
    local = BEGAN.astimezone(timezone(timedelta(hours=2)))
    name = clip_name("door", local, "fight")
    assert name.film == "door/2026-11-29/235958-007-fight.mp4"
    assert name.still == "door/2026-11-29/235958-007-fight.jpg"
    assert name.drawn == "door/2026-11-29/235958-007-fight.drawn.jpg"
    assert clip_name("door", BEGAN, "fight", 2).film == "door/2026-11-29/235958-007-fight-2.mp4"


def test_a_name_of_a_view_ends_in_its_names_and_can_be_parsed() -> None:
    name = clip_name("door", BEGAN, "fight", view=("gate", "hands"))
    assert name.film == "door/2026-11-29/235958-007-fight-gate-hands.mp4"
    longest = clip_name("s" * 64, BEGAN, "x" * 256, 99, view=("g" * 64, "m" * 64))
    assert parse_clip_path(longest.drawn) == (longest, ".drawn.jpg")
    assert re.fullmatch(CLIP_PATH_PATTERN, longest.drawn)


def test_names_sort_by_time_across_streams() -> None:
    earlier, later = clip_name("z", BEGAN, "a"), clip_name("a", BEGAN + timedelta(seconds=1), "a")
    next_day = clip_name("a", BEGAN + timedelta(seconds=2), "a")
    assert sorted([next_day, later, earlier]) == [earlier, later, next_day]


@pytest.mark.parametrize(
    ("label", "slug"),
    [
        ("fight", "fight"),
        ("Head Banging", "Head-Banging"),
        ("caf\u00e9", "cafe"),
        ("a/b", "a-b"),
        ("../../etc/passwd", "etc-passwd"),
        ("..", "action"),
        (".", "action"),
        ("\U0001f600", "action"),
        ("\u05e9\u05dc\u05d5\u05dd", "action"),
        ("\u202egpj.exe", "gpj-exe"),
        ("-rf", "rf"),
        ("a\0b\nc", "a-b-c"),
        ("CON", "CON"),
        ("\ud800", "action"),
        ("\ufdfa" * 256, "action"),
        ("x" * 256, "x" * MAX_SLUG_CHARS),
    ],
)
def test_any_label_gives_a_name_that_can_be_parsed(label: str, slug: str) -> None:
    assert label_slug(label) == slug
    name = clip_name("door", BEGAN, label, 3)
    assert parse_clip_path(name.film) == (name, ".mp4")


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/etc/passwd",
        "door/2026-11-29/../../../etc/passwd",
        "../2026-11-29/120000-000-a.mp4",
        "door/..",
        "door/2026-11-29/..",
        "door/2026-11-29/",
        "door//120000-000-a.mp4",
        "door/2026-11-29/120000-000-a.mp4/x",
        "door/2026-11-29/.120000-000-a.mp4",
        "door/2026-11-29/120000-000-a",
        "door/2026-11-29/120000-000-a.mp4\n",
        "door/2026-11-29/120000-000-a\0.mp4",
        "door\n/2026-11-29/120000-000-a.mp4",
        "d\u00f6\u00f6r/2026-11-29/120000-000-a.mp4",
        "door/\u0662026-11-29/120000-000-a.mp4",
        "door\\2026-11-29\\120000-000-a.mp4",
        "door/2026-11-29/120000-000-" + "a" * 300 + ".mp4",
    ],
)
def test_other_paths_are_no_clips(path: str) -> None:
    assert parse_clip_path(path) is None
