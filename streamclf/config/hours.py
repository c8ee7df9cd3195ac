"""Parse hours of the week, like `mon-fri 08:00-18:00`, and test whether a time is within them. Pure.

An entry names days, hours, or both: `sat,sun`, `08:00-18:00`, `mon-fri 08:00-18:00`. The end is excluded; `24:00` is
midnight. Hours that end before they begin continue into the next day and belong to the day on which they begin:
`fri 22:00-06:00` ends on Saturday at six.

The hours are wall clock time in the service's `timezone`, or else in the machine's. So an hour that summer time skips
does not occur, an hour that it repeats occurs twice, and no limit moves to another time of day.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_DAY_MIN: Final = 24 * 60
_EVERY_DAY: Final = frozenset(range(7))
_HOURS: Final = re.compile(r"(\d{1,2}):(\d{2})-(\d{1,2}):(\d{2})")
_REMEDY: Final = "like mon-fri 08:00-18:00, sat,sun or 22:00-06:00"


@dataclass(frozen=True, slots=True)
class Hours:
    """One entry: the `days` on which it begins (Monday is 0), and minutes from midnight; `end_min` is excluded."""

    days: frozenset[int]
    begin_min: int
    end_min: int

    def cover(self, day: int, minute: int) -> bool:
        """Return whether the hours include `minute` of `day`."""
        if self.begin_min < self.end_min:
            return day in self.days and self.begin_min <= minute < self.end_min
        began_yesterday = (day - 1) % 7 in self.days and minute < self.end_min
        return began_yesterday or (day in self.days and minute >= self.begin_min)


def within(hours: Sequence[Hours], local: datetime) -> bool:
    """Return whether `local` is within any of `hours`; False if there are none."""
    minute = 60 * local.hour + local.minute
    return any(each.cover(local.weekday(), minute) for each in hours)


def local_time(time_s: float, zone: ZoneInfo | None) -> datetime:
    """Convert seconds since 1970 to the wall clock's time in `zone`, or in the machine's time zone."""
    return datetime.fromtimestamp(time_s, zone)


def zone_of(name: str | None) -> ZoneInfo | None:
    """Return the time zone `name`; None stands for the machine's. Raises `ValueError` for an unknown name."""
    if name is None:
        return None
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(
            f"{name!r}: not known on this machine; give a name like Europe/Berlin (or pip install tzdata)"
        ) from None


@lru_cache(maxsize=256)
def parse_hours(text: str) -> Hours:
    """Parse one entry of hours. Raises `ValueError` that names the mistake."""
    words = text.casefold().split()
    times = words.pop() if words and ":" in words[-1] else "00:00-24:00"
    if len(words) > 1 or not text.strip():
        raise ValueError(f"{text!r}: give days, hours or both, {_REMEDY}")
    days = _parse_days(words[0], text) if words else _EVERY_DAY
    match = _HOURS.fullmatch(times)
    if match is None:
        raise ValueError(f"{text!r}: {times!r} are no hours; give them {_REMEDY}")
    begin, end = _minute(match[1], match[2], text), _minute(match[3], match[4], text)
    if begin == end or begin == _DAY_MIN:  # noqa: SIM109 - two mistakes with one remedy
        raise ValueError(f"{text!r}: no time lies in between; for a whole day write 00:00-24:00")
    return Hours(days, begin, end)


def _parse_days(word: str, text: str) -> frozenset[int]:
    days: set[int] = set()
    for part in word.split(","):
        first, dash, last = part.partition("-")
        if first not in DAYS or (dash and last not in DAYS):
            raise ValueError(f"{text!r}: day {part!r}: must be one of {', '.join(DAYS)}, or a range like mon-fri")
        begin = DAYS.index(first)
        count = (DAYS.index(last) - begin) % 7 if dash else 0
        days.update((begin + day) % 7 for day in range(count + 1))
    return frozenset(days)


def _minute(hour: str, minute: str, text: str) -> int:
    total = 60 * int(hour) + int(minute)
    if int(minute) > 59 or total > _DAY_MIN:
        raise ValueError(f"{text!r}: time {hour}:{minute}: must be 00:00 to 24:00")
    return total
