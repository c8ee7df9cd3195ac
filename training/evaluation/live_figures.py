"""Compute and print what users notice of live actions: right and wrong events, false starts, seconds to the event."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from engines.printable import printable
from training.evaluation.intervals import count_interval, share_interval
from training.evaluation.live_events import EventResult, FilmResult

_MINUTE_S, _HOUR_S, _DAY_S = 60.0, 3600.0, 86400.0


def live_figures(films: Sequence[FilmResult], labels: Sequence[str]) -> dict[str, Any]:
    """Compute the figures of played films, for all events and for each of `labels`: those that have an action.

    Shares are from 0 to 1. Times are seconds of media time; the milliseconds that a service needs for a prediction are
    not in them. `interval` keys are 95 % intervals; they treat each event, and each false start, as independent.
    """
    events = [event for film in films for event in film.events]
    names = sorted({event.event.label for event in events} | set(labels))
    starts = [run.label for film in films for run in film.false_starts]
    outside = sum(len(film.false_outside) for film in films)
    return {
        "films": len(films),
        **_event_figures(events),
        "false_starts": _rate(len(starts), sum(film.watched_s for film in films)),
        "false_starts_outside_events": _rate(outside, sum(film.outside_s for film in films)),
        "labels": {
            name: {
                **_event_figures([event for event in events if event.event.label == name]),
                "false_starts": starts.count(name),
            }
            for name in names
        },
    }


def _event_figures(events: Sequence[EventResult]) -> dict[str, Any]:
    found = [event for event in events if event.start_s is not None]
    right = sum(not event.wrong for event in found)
    only_wrong = sum(bool(event.wrong) for event in events if event.start_s is None)
    low, high = share_interval(right, len(events))
    total_s = sum(event.event.end_s - event.event.start_s for event in events)
    return {
        "events": len(events),
        "right": right,
        "right_interval": [round(low, 4), round(high, 4)],
        "right_and_wrong": len(found) - right,
        "only_wrong": only_wrong,
        "none": len(events) - len(found) - only_wrong,
        "started_again": sum(event.again for event in events),
        "seconds": _times([event.start_s - event.event.start_s for event in found if event.start_s is not None]),
        "seconds_after_end": _times(
            [
                event.start_s - event.event.end_s
                for event in found
                if event.start_s is not None and event.start_s > event.event.end_s
            ]
        ),
        "share_of_time": round(sum(event.running_s for event in events) / total_s, 4) if events else None,
        "seconds_over": _times([event.over_s for event in found if event.over_s is not None]),
    }


def _times(seconds: Sequence[float]) -> dict[str, Any]:
    if not seconds:
        return {"events": 0, "p50": None, "p90": None}
    p50, p90 = np.percentile(seconds, [50, 90])
    return {"events": len(seconds), "p50": round(float(p50), 3), "p90": round(float(p90), 3)}


def _rate(count: int, watched_s: float) -> dict[str, Any]:
    """Return the rates of `count` false starts; the interval is of those per day."""
    rate = {"count": count, "hours": round(watched_s / _HOUR_S, 4)}
    if not watched_s:
        return {**rate, "per_minute": None, "per_day": None, "per_day_interval": None}
    return {
        **rate,
        "per_minute": round(count * _MINUTE_S / watched_s, 4),
        "per_day": round(count * _DAY_S / watched_s, 2),
        "per_day_interval": [round(limit * _DAY_S / watched_s, 2) for limit in count_interval(count)],
    }


def live_text(figures: dict[str, Any]) -> str:
    """Format the figures as text."""
    lines = [f"{figures['events']} events in {figures['films']} films"]
    if figures["events"]:
        low, high = figures["right_interval"]
        interval = f"   (95 % interval {low:.1%} to {high:.1%})"
        for text, key in (
            ("right event and no wrong one", "right"),
            ("right, but also a wrong one", "right_and_wrong"),
            ("only a wrong one", "only_wrong"),
            ("no event", "none"),
        ):
            share = figures[key] / figures["events"]
            lines.append(f"  {text:<32}{figures[key]:6d}  {share:6.1%}{interval if key == 'right' else ''}")
        lines.append(f"  {'starts of the same label again':<32}{figures['started_again']:6d}")
        lines.append(f"  {'seconds after its start':<32}{_times_text(figures['seconds'])}")
        if figures["seconds_after_end"]["events"]:
            late = figures["seconds_after_end"]
            lines.append(f"  {'seconds after its end':<32}{_times_text(late)}, {late['events']} events")
        lines.append(f"  {'action runs, of the time':<32}{figures['share_of_time']:14.1%}")
        over = figures["seconds_over"]
        lines.append(f"  {'action runs until its end':<32}{over['events']:6d}")
        if over["events"]:
            lines.append(f"  {'then on after its end, seconds':<32}{_times_text(over)}")
    lines.append("false starts")
    lines.append(rate_text("in all film", figures["false_starts"]))
    lines.append(rate_text("outside of events", figures["false_starts_outside_events"]))
    lines.append(_HEADER)
    lines += [_label_line(label, each) for label, each in figures["labels"].items()]
    return "\n".join(lines)


def _times_text(times: dict[str, Any]) -> str:
    return "     -" if times["p50"] is None else f"{times['p50']:6.1f} p50, {times['p90']:.1f} p90"


def rate_text(name: str, rate: dict[str, Any]) -> str:
    """Format a rate of false starts as one line."""
    begin = f"  {name:<18}{rate['count']:6d} in {rate['hours']:.2f} h"
    if rate["per_day"] is None:
        return begin
    low, high = rate["per_day_interval"]
    return (
        f"{begin}: {rate['per_minute']:.3f} a minute, {rate['per_day']:.1f} per camera and day "
        f"(95 % interval {low:.1f} to {high:.1f})"
    )


_HEADER = (
    f"{'label':<20}{'events':>7}{'right':>7}{'+wrong':>7}{'wrong':>7}{'none':>7}{'again':>7}{'p50 s':>7}{'p90 s':>7}"
    f"{'of time':>9}{'to end':>7}{'false':>7}"
)


def _label_line(label: str, f: dict[str, Any]) -> str:
    counts = "".join(
        f"{f[key]:7d}" for key in ("events", "right", "right_and_wrong", "only_wrong", "none", "started_again")
    )
    times = "".join("      -" if f["seconds"][p] is None else f"{f['seconds'][p]:7.1f}" for p in ("p50", "p90"))
    share = "        -" if f["share_of_time"] is None else f"{f['share_of_time']:9.1%}"
    return f"{printable(label):<20}{counts}{times}{share}{f['seconds_over']['events']:7d}{f['false_starts']:7d}"
