"""Durations and sizes with a unit."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from pydantic import TypeAdapter, ValidationError

from streamclf.config.units import Duration, Size, match_duration, match_size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("1.5h", 5400), ("7d", 604_800), ("4w", 2_419_200), ("7", None), ("d", None), ("7d\n", None)],
)
def test_a_duration_is_read_in_seconds(text: str, seconds: float | None) -> None:
    assert match_duration(text) == seconds


@pytest.mark.parametrize(
    ("text", "size"), [("500MB", 500_000_000), ("1.5GB", 1_500_000_000), ("1KiB", 1024), ("10", None), ("5B", None)]
)
def test_a_size_is_read_in_bytes(text: str, size: int | None) -> None:
    assert match_size(text) == size


@pytest.mark.parametrize("read", [match_duration, match_size])
def test_a_number_beyond_the_range_of_a_float_is_refused(read: Callable[[str], float | None]) -> None:
    assert read("9" * 400 + "d") is None
    assert read("9" * 400 + "GB") is None


def test_a_key_of_the_configuration_holds_a_number() -> None:
    assert TypeAdapter(Duration).validate_python("2m") == 120.0
    assert TypeAdapter(Size).validate_python("1MB") == 1_000_000


@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [
        (Duration, "forever", "'forever': must be a number and s, m, h, d or w, like 7d"),
        (Duration, 7, "7: must be a number and s, m, h, d or w, like 7d"),
        (Size, "10", "'10': must be a number and MB, GB or TB, like 10GB; at least 1MB"),
        (Size, "999KB", "at least 1MB"),
        (Duration, "1000000d", "'1000000d': at most 36600d"),
        (Duration, "20000w", "at most 36600d"),
        (Duration, "9" * 400 + "w", "a number and s, m, h, d or w"),
        (Duration, True, "a number and s, m, h, d or w"),
        (Duration, "-1d", "a number and s, m, h, d or w"),
        (Duration, "infd", "a number and s, m, h, d or w"),
        (Size, "1001TB", "at most 1000TB"),
    ],
)
def test_other_values_are_refused_with_an_example(kind: object, value: object, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TypeAdapter(kind).validate_python(value)
