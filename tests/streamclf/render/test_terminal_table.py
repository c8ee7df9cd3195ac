"""The live table shows the age of an old event, the rate of new ones, and lists changes once."""

from __future__ import annotations

import io
from datetime import datetime, timezone
from typing import Any

import pytest
from rich.console import Console

from streamclf.events.types import Action, Prediction, Status, Window
from streamclf.render.terminal_table import LiveTable, short_age

COMMON: dict[str, Any] = {"epoch": "ab" * 16, "offset": 1, "previous": 0, "time": datetime.now(timezone.utc)}
WINDOW = Window(start_s=0, end_s=1, frames=8)


def text_of(table: LiveTable, width: int = 140) -> str:
    console = Console(width=width, file=io.StringIO())
    with console.capture() as capture:
        console.print(table.render())
    return capture.get()


def predicted(stream: str, label: str = "wave") -> Prediction:
    return Prediction(stream=stream, window=WINDOW, top=((label, 0.9),), model="m", **COMMON)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-1, "0.0 s"), (0.44, "0.4 s"), (42, "42 s"), (600, "10 min"), (10_000, "3 h"), (900_000, "10 d")],
)
def test_an_age_is_shown_in_one_unit(seconds: float, text: str) -> None:
    assert short_age(seconds) == text


def test_text_from_outside_is_neither_markup_nor_a_control_sequence() -> None:
    table = LiveTable("streamclf status", "tcp://[::1]:5555 [bold]x[/bold]")
    table.apply(predicted("a"))
    table.apply(predicted("a", "[/x] fall [red]you[/red] \x1b[31m"))
    table.apply(Status(stream="b", state="offline", reason="[/y] \x1b]0;PWNED\x07", **COMMON))
    text = text_of(table, 200)
    assert "tcp://[::1]:5555 [bold]x[/bold]" in text
    assert r"[/x] fall [red]you[/red] \x1b[31m" in text
    assert r"[/y] \x1b]0;PWNED\x07" in text
    assert not set(text) & {"\x1b", "\x07"}


def test_a_long_label_leaves_the_other_columns_their_width() -> None:
    table = LiveTable("")
    table.apply(predicted("door", "word " * 50))
    (row,) = [line for line in text_of(table, 100).splitlines() if " door " in line]
    assert "0.90" in row
    assert "…" in row


def test_an_old_event_shows_its_age_and_counts_for_no_rate() -> None:
    table = LiveTable("")
    for _ in range(30):
        table.apply(predicted("old"), age_s=4000)
        table.apply(predicted("new"))
    table.apply(Status(stream="old", state="offline", reason="unplugged", **COMMON))
    lines = {line.split()[1]: line for line in text_of(table, 120).splitlines() if " wave " in line}
    assert "0.0/s" in lines["old"]
    assert "67 min" in lines["old"]
    assert "unplugged" in lines["old"]
    assert "10.0/s" in lines["new"]


def test_the_hop_of_an_adaptive_stream_and_its_change_are_shown() -> None:
    table = LiveTable("")
    for hop in (None, 1, 4, 4):
        table.apply(Status(stream="cam", state="live", hop=hop, **COMMON))
    text = text_of(table)
    assert "0.0/s hop 4" in text
    assert text.count("it was 1") == 1
    assert "it was None" not in text


def test_changes_of_label_state_and_actions_are_listed_unless_they_are_old() -> None:
    table = LiveTable("")
    table.apply(predicted("door", "still"), age_s=10)
    table.apply(Status(stream="door", state="live", reason="old news", **COMMON), age_s=10)
    table.apply(predicted("door", "wave"))
    for phase in ("start", "update", "end"):
        action: Any = {"label": "fall", "started_s": 1.0, "at_s": 2.0, "probability": 0.9, "peak": 0.9}
        table.apply(Action(stream="door", phase=phase, **action, **COMMON))
    text = text_of(table)
    assert "old news" not in text
    assert text.count("0.90 at 1.0 s") == 1
    assert text.count("fall start") == text.count("fall end") == 1
    assert "fall update" not in text


def test_reasons_and_notes_are_written_out_below_the_table() -> None:
    table = LiveTable("streamclf status")
    reason = "/films/a.mp4: cut off, or its recording was not finished: its index (moov) is missing; copy it again"
    table.apply(Status(stream="film", state="offline", reason=reason, **COMMON), age_s=1)
    table.apply(
        Status(stream="door", state="live", note="time stamps stand still: frames have their arrival", **COMMON)
    )
    text = " ".join(text_of(table, 80).replace("│", " ").split())
    assert f"film {reason}" in text
    assert "door time stamps stand still: frames have their arrival" in text


def test_a_long_list_of_reasons_is_cut() -> None:
    table = LiveTable("streamclf status")
    for number in range(30):
        table.apply(Status(stream=f"s{number:02}", state="offline", reason="refused", **COMMON), age_s=1)
    text = text_of(table, 80)
    assert "s07  refused" in text
    assert "and 22 more" in text
