"""Hours of the week are right on every day of the year, also on the two days that do not have 24 hours."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamclf.config.hours import DAYS, Hours, local_time, parse_hours, within, zone_of

BERLIN = ZoneInfo("Europe/Berlin")


def minutes_active(text: str, day: datetime, hours: int = 24) -> int:
    """Count the minutes of real time from `day` on, in Berlin, that are within the hours."""
    begin_s = day.timestamp()
    return sum(within([parse_hours(text)], local_time(begin_s + 60 * n, BERLIN)) for n in range(60 * hours))


@pytest.mark.parametrize(
    ("text", "days", "begin", "end"),
    [
        ("mon-fri 08:00-18:00", {0, 1, 2, 3, 4}, 480, 1080),
        ("Sat,SUN", {5, 6}, 0, 1440),
        ("8:00-24:00", set(range(7)), 480, 1440),
        ("fri-mon 22:00-06:00", {4, 5, 6, 0}, 1320, 360),
        ("  wed   00:00-00:01 ", {2}, 0, 1),
        ("sun-sun", {6}, 0, 1440),
    ],
)
def test_days_and_hours_are_parsed(text: str, days: set[int], begin: int, end: int) -> None:
    assert parse_hours(text) == Hours(frozenset(days), begin, end)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "days, hours or both"),
        ("mon tue 08:00-18:00", "days, hours or both"),
        ("mon-fry 08:00-18:00", "day 'mon-fry'"),
        ("monday", "day 'monday'"),
        ("mon,", "day ''"),
        ("08:00", "'08:00' are no hours"),
        ("08:00-18:00-20:00", "are no hours"),
        ("08:60-18:00", "time 08:60"),
        ("08:00-24:01", "time 24:01"),
        ("08:00-08:00", "whole day write 00:00-24:00"),
        ("24:00-06:00", "whole day write 00:00-24:00"),
    ],
)
def test_an_error_names_the_entry_and_its_mistake(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        parse_hours(text)
    assert repr(text) in str(caught.value)


def test_night_hours_belong_to_the_day_on_which_they_begin() -> None:
    night = [parse_hours("fri 22:00-06:00")]
    shown = [
        f"{moment:%a %H}"
        for n in range(7 * 24)
        if within(night, moment := datetime(2026, 1, 5, tzinfo=timezone.utc) + timedelta(hours=n))
    ]
    assert shown == ["Fri 22", "Fri 23", "Sat 00", "Sat 01", "Sat 02", "Sat 03", "Sat 04", "Sat 05"]


def test_an_hour_that_summer_time_skips_does_not_occur() -> None:
    spring = datetime(2026, 3, 29, tzinfo=BERLIN)  # 02:00 becomes 03:00
    assert minutes_active("02:00-03:00", spring, 23) == 0
    assert minutes_active("01:30-03:30", spring, 23) == 60
    assert minutes_active("sun 08:00-18:00", spring, 23) == 600


def test_an_hour_that_winter_time_repeats_occurs_twice() -> None:
    autumn = datetime(2026, 10, 25, tzinfo=BERLIN)  # 03:00 becomes 02:00
    assert minutes_active("02:00-03:00", autumn, 25) == 120
    assert minutes_active("22:00-06:00", datetime(2026, 10, 24, 12, tzinfo=BERLIN), 24) == 9 * 60
    assert minutes_active("sun", autumn, 25) == 25 * 60


moments = st.datetimes(datetime(2001, 1, 1), datetime(2060, 1, 1))
clock = st.integers(0, 24 * 60)


@given(moment=moments, days=st.sets(st.integers(0, 6), min_size=1), begin=st.integers(0, 1439), end=clock)
def test_hours_match_a_simple_computation(moment: datetime, days: set[int], begin: int, end: int) -> None:
    if begin == end:
        end = 24 * 60
    text = f"{','.join(DAYS[day] for day in days)} {begin // 60:02}:{begin % 60:02}-{end // 60:02}:{end % 60:02}"
    midnight = moment.replace(hour=0, minute=0, second=0, microsecond=0)
    expected = False
    for day in (midnight - timedelta(days=1), midnight):  # hours that cover this moment began today or yesterday
        length = end - begin if end > begin else end + 24 * 60 - begin
        began = day + timedelta(minutes=begin)
        expected |= day.weekday() in days and began <= moment < began + timedelta(minutes=length)
    assert within([parse_hours(text)], moment) == expected


@given(time_s=st.integers(0, 2_500_000_000), begin=st.integers(0, 1439), end=st.integers(0, 1439))
def test_a_time_is_either_within_hours_or_within_the_rest_of_the_day(time_s: int, begin: int, end: int) -> None:
    if begin == end:
        return
    one, other = (
        [parse_hours(f"{a // 60}:{a % 60:02}-{b // 60}:{b % 60:02}")] for a, b in ((begin, end), (end, begin))
    )
    local = local_time(time_s, BERLIN)
    assert within(one, local) != within(other, local)


def test_an_unknown_time_zone_is_refused() -> None:
    assert zone_of(None) is None
    assert zone_of("Europe/Berlin") == BERLIN
    for name in ("Mars/Olympus", "../etc/passwd", "", "Europe"):
        with pytest.raises(ValueError, match="a name like Europe/Berlin"):
            zone_of(name)
