"""The live table shows the age of an old event, the rate of new ones, and lists changes once."""

from __future__ import annotations

import io
import re
from datetime import datetime, timezone
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from streamclf.events.outlet_status import OutletStatus
from streamclf.events.types import Action, Heartbeat, Prediction, Status, Window
from streamclf.render.terminal_rows import short_age
from streamclf.render.terminal_table import LiveTable

COMMON: dict[str, Any] = {"epoch": "ab" * 16, "offset": 1, "previous": 0, "time": datetime.now(timezone.utc)}
REASON = "rtsp://***@10.0.0.7/live: no answer within 5 s; check the cable, its power and the address of camera"
WINDOW = Window(start_s=0, end_s=1, frames=8)


def text_of(table: LiveTable, width: int = 140) -> str:
    console = Console(width=width, file=io.StringIO())
    with console.capture() as capture:
        console.print(table)
    return capture.get()


def screen_of(table: LiveTable, width: int, height: int) -> list[str]:
    """Return the lines that a terminal of this size shows."""
    console = Console(width=width, height=height, file=io.StringIO(), force_terminal=True, color_system=None)
    with console.capture() as capture:
        console.print(table)
    return capture.get().splitlines()


def predicted(stream: str, label: str = "wave", probability: float = 0.9, **more: Any) -> Prediction:
    top = ((label, probability), ("still", 0.05))
    return Prediction(stream=stream, window=WINDOW, **{"top": top, "model": "m", **more}, **COMMON)


def heartbeat(**outlets: OutletStatus) -> Heartbeat:
    return Heartbeat(
        epoch="ab" * 16, time=COMMON["time"], head=1, oldest=1, last={}, replay="tcp://127.0.0.1:1", outlets=outlets
    )


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
    table.apply(predicted("new"), age_s=4000)
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
    table.apply(Status(stream="yard", state="live", decode="fast", **COMMON))
    table.apply(Status(stream="hall", state="live", decode="exact", **COMMON))
    text = " ".join(text_of(table, 80).replace("│", " ").split())
    assert f"film {reason}" in text
    assert "door time stamps stand still: frames have their arrival" in text
    assert "yard decoded fast" in text
    assert text.count("decoded") == 1


def test_a_long_list_of_reasons_is_cut() -> None:
    table = LiveTable("streamclf status")
    for number in range(30):
        table.apply(Status(stream=f"s{number:02}", state="offline", reason=REASON, **COMMON), age_s=1)
    text = text_of(table, 80)
    assert "s07  rtsp" in text
    assert text.count("address of camera") == 8
    assert "and 22 more" in text


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_the_important_texts_are_complete_at_every_width(width: int) -> None:
    table = LiveTable("streamclf status", "tcp://127.0.0.1:5555")
    table.footer = (
        Text("12 dropped"),
        Text("events 1 to 123456789"),
        Text("an engine with a very long description, " * 2),
    )
    for number in range(100):
        table.apply(predicted("front-door", "covered", 0.2 if number < 99 else 0.95), age_s=10)
    table.apply(Status(stream="front-door", state="live", hop=4, **COMMON), age_s=1)
    table.apply(Status(stream="gate", state="offline", reason=REASON, **COMMON), age_s=1)
    table.apply(heartbeat(mqtt=OutletStatus(state="waiting", since=COMMON["time"], reason="broker:1883: refused")))
    lines = screen_of(table, width, 50)
    assert {cell_len(line) for line in lines} == {width}
    text = " ".join(" ".join(lines).translate(str.maketrans("│╭╮╰╯─", "      ")).split())
    assert "Ctrl-C ends" in lines[-1]
    for part in (REASON, "broker:1883: refused", "12 dropped", "events 1 to 123456789", "very long description"):
        assert part in text
    (row,) = [line for line in lines if " front-door " in line]
    assert " covered " in row
    assert "0.95" in row
    assert row.rstrip("│ ").endswith("█"), "the newest prediction is the last cell of the timeline"


def test_a_wide_terminal_shows_more_of_the_past() -> None:
    table = LiveTable("")
    for _ in range(300):
        table.apply(predicted("door"), age_s=10)
    narrow, wide = (text_of(table, width).count("▇") for width in (80, 200))
    assert 10 <= narrow < 80 < 120 < wide


def test_names_for_people_are_shown_with_the_key_where_there_is_room() -> None:
    table = LiveTable("")
    table.apply(predicted("cam7"), age_s=1)
    table.apply(Status(stream="cam7", state="offline", reason=REASON, name="Gate [b]\x1b[31m", **COMMON))
    assert r" Gate [b]\x1b[31m (cam7) " in text_of(table, 120)
    narrow = text_of(table, 60)
    assert r"Gate [b]\x1b[31m" in narrow
    assert "cam7" not in narrow
    assert "\x1b" not in narrow


@pytest.mark.parametrize("height", [12, 24, 40])
def test_the_table_has_no_more_lines_than_the_terminal(height: int) -> None:
    """Rich would cut off the last lines, with the message of a silent service."""
    table = LiveTable("")
    for number in range(60):
        table.apply(Status(stream=f"s{number:02}", state="live", **COMMON), age_s=1)
        table.apply(predicted(f"s{number:02}"))
    for number in (57, 58):
        table.apply(Status(stream=f"s{number:02}", state="offline", reason=REASON, **COMMON))
    table.footer = (Text("nothing received for 7 s"),)
    lines = screen_of(table, 80, height)
    assert len(lines) <= height
    assert "nothing received for 7 s  ·  Ctrl-C ends" in lines[-1]
    rows = [line for line in lines if " s57 " in line or " s58 " in line]
    assert "offline" in rows[0]
    assert "offline" in rows[1]
    shown = sum(" live " in line or " offline " in line for line in lines)
    assert any(f"and {60 - shown} streams more" in line for line in lines)
    assert any("address of camera" in line for line in lines) == (height > 12)


def test_a_table_that_is_printed_once_names_no_key_that_ends_it() -> None:
    table = LiveTable("", hint="")
    table.footer = (Text("events 1 to 2"),)
    text = text_of(table, 80)
    assert "events 1 to 2" in text
    assert "Ctrl-C" not in text


def test_a_stream_with_views_has_a_line_for_each_at_80_columns() -> None:
    table = LiveTable("")
    table.apply(Status(stream="door", state="live", name="Front door", **COMMON))
    for region in ("gate", "yard"):
        for number, model in enumerate((None, "camera-events")):
            table.apply(predicted("door", "wave", 0.5 + number / 10, region=region, model_name=model), age_s=1)
    table.apply(predicted("plain", "still", 0.3), age_s=1)
    text = text_of(table, 80)
    lines = [line.strip("│ ") for line in text.splitlines()]
    assert max(cell_len(line) for line in text.splitlines()) <= 80
    rows = lines[next(index for index, line in enumerate(lines) if line.startswith("stream")) + 1 :]
    rows = [row for row in rows if row and not row.startswith("─")][:6]
    assert [(row.split("  ")[0], next((word for word in row.split() if "0." in word), "")) for row in rows] == [
        ("Front door (door)", ""),
        ("gate", "0.50"),
        ("gate · camera-events", "0.60"),
        ("yard", "0.50"),
        ("yard · camera-events", "0.60"),
        ("plain", "0.30"),
    ]
    assert all("wave" in row for row in rows[1:5])


def test_all_labels_above_their_thresholds_are_shown() -> None:
    table = LiveTable("")
    top = (("fall", 0.9), ("door opens", 0.7), ("other", 0.1))
    for labels in ((), ("fall", "door opens")):
        table.apply(predicted("hall", top=top, labels=labels))
        table.apply(predicted("hall", top=top, labels=labels[::-1]))
        (row,) = [line for line in text_of(table, 120).splitlines() if line.startswith("│ hall")]
        assert ("fall, door opens" in row or "door opens, fall" in row) == bool(labels), row
        assert ("none" in row) != bool(labels)
    changes = [line for line in text_of(table, 120).splitlines() if re.match(r"│ \d\d:\d\d:\d\d", line)]
    assert len(changes) == 1, "the same labels in another order are no change"


def test_changes_name_their_view() -> None:
    table = LiveTable("")
    for label in ("still", "wave"):
        table.apply(predicted("door", label, region="gate", model_name="hands"))
        table.apply(predicted("door", label))
    changes = [line for line in text_of(table, 120).splitlines() if re.match(r"│ \d\d:\d\d:\d\d", line)]
    assert ["door · gate · hands  wave" in line for line in changes] == [True, False]
    assert "door  wave" in changes[1]


def test_more_streams_than_lines_count_the_lines_of_their_views() -> None:
    table = LiveTable("")
    for number in range(6):
        for region in ("a", "b", "c"):
            table.apply(predicted(f"cam{number}", region=region), age_s=1)
    lines = screen_of(table, 100, 20)
    assert len(lines) <= 20
    assert sum(" cam" in line for line in lines) < 6
    assert any("streams more" in line for line in lines)
