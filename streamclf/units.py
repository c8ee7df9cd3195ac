"""Define the nanoseconds in a second, and write durations and shares. Every package may import this."""

from __future__ import annotations

from typing import Final

NS: Final = 1_000_000_000
"""One second in nanoseconds: `5 * NS` is five seconds."""


def duration_text(seconds: float) -> str:
    """Return a duration in one or two units: `12 s`, `3 min 5 s`, `2 h 10 min`, `3 d 4 h`."""
    whole = max(0, round(seconds))
    if whole < 1:
        return f"{max(0.0, seconds):.1f} s"
    units = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))
    first = next(number for number, (_, size) in enumerate(units) if whole >= size)
    parts = []
    for name, size in units[first : first + 2]:
        count, whole = divmod(whole, size)
        if count:
            parts.append(f"{count} {name}")
    return " ".join(parts)


def share_text(share: float | None) -> str:
    """Return a share from 0 to 1 as a percentage; a dash for None."""
    return "–" if share is None else f"{share:.0%}"
