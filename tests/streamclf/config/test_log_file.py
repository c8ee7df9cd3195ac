"""Limits of a log file are a size, an age or both; any other limit is refused with a message that names it."""

from __future__ import annotations

from pathlib import Path

import pytest

from streamclf.config.log_file import Rotation, check_log_file, parse_rotation
from streamclf.errors import UsageError


@pytest.mark.parametrize(
    ("limits", "keep", "expected"),
    [
        ([], None, Rotation()),
        (["100MB"], None, Rotation(max_bytes=100_000_000)),
        ([], "90d", Rotation(keep_s=90 * 86400)),
        (["1d"], "90d", Rotation(max_age_s=86400, keep_s=90 * 86400)),
        (["1d"], "3", Rotation(max_age_s=86400, keep=3)),
        (["1d", "1.5KiB"], 4, Rotation(max_bytes=1536, max_age_s=86400, keep=4)),
    ],
)
def test_a_rotation_is_a_size_an_age_or_both(limits: list[str], keep: int | str | None, expected: Rotation) -> None:
    assert parse_rotation(limits, keep) == expected


@pytest.mark.parametrize(
    ("limits", "keep", "message"),
    [
        (["100"], None, "rotate=100: give one size like 100MB"),
        (["1KB", "2KB"], None, "rotate=2KB: give one size"),
        (["9" * 400 + "GB"], None, "give one size"),
        (["1d", "2d"], None, "rotate=2d: give one size"),
        (["1.0001KiBs"], None, "give one size"),
        (["0KB"], None, "rotate=0KB: at least 1KB"),
        (["0s"], None, "rotate=0s: at least 1s"),
        (["99999999999GB"], None, "at most 10000GB"),
        ([], 3, "keep=3: a number of files needs rotate"),
        ([], "3 days", "keep=3 days: an age like 90d, or with rotate a number of files"),
        ([], "0s", "keep=0s: at least 1s"),
        (["1d"], 0, "keep=0: at least 1"),
    ],
)
def test_an_impossible_rotation_is_refused(limits: list[str], keep: int | str | None, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_rotation(limits, keep)


def test_a_log_in_json_lines_that_is_limited_begins_new_files_by_itself() -> None:
    assert Rotation(keep_bytes=10**9).for_lines() == Rotation(keep_bytes=10**9, max_bytes=10**8)
    assert Rotation(keep_s=864_000).for_lines() == Rotation(keep_s=864_000, max_age_s=86_400)
    given = Rotation(keep_s=864_000, max_bytes=10**6)
    assert given.for_lines() is given
    assert Rotation().for_lines() == Rotation()


def test_the_size_that_is_kept_holds_two_files() -> None:
    check_log_file(Path("a.jsonl"), Rotation(max_bytes=10, keep_bytes=20))
    with pytest.raises(UsageError, match=r"a\.jsonl: keep_size must be at least twice the size in rotate"):
        check_log_file(Path("a.jsonl"), Rotation(max_bytes=11, keep_bytes=20))
