"""What a line of a text log is: JSON as published, or CSV for spreadsheets. Each event, each lost range is one line."""

from __future__ import annotations

import csv
import io
import re
from datetime import datetime, timezone
from typing import Final, Protocol

import orjson

from streamclf.events.positions import Position
from streamclf.events.types import (
    TIME_FORMAT,
    Action,
    Lost,
    Prediction,
    Status,
    StreamEvent,
    format_event_time,
    published_json,
)

COLUMNS: Final = (
    "offset", "time", "stream", "type", "label", "probability", "start_s", "end_s",
    "phase", "state", "reason", "last", "epoch",
)  # fmt: skip
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f\x85\u2028\u2029]+")


class LineFormat(Protocol):
    """How events become lines, and how the last line tells where to go on."""

    header: bytes
    """The first line of each file, or nothing."""
    opening: bytes
    """What each file begins with."""

    def line(self, item: StreamEvent | Lost) -> bytes:
        """With its line break; no other is in it."""
        ...

    def position(self, line: bytes) -> Position | None:
        """Where a log that ends with `line` goes on; None if it does not say. Raises `ValueError` for other lines."""
        ...

    def time_s(self, line: bytes) -> float | None:
        """When the event of `line` was, in seconds since 1970; None if it does not say."""
        ...


class Jsonl:
    """Byte for byte as published; lost offsets are lines of type `lost`."""

    header = b""
    opening = b'{"'

    def line(self, item: StreamEvent | Lost) -> bytes:
        """One JSON object."""
        if not isinstance(item, Lost):
            return published_json(item) + b"\n"
        return orjson.dumps({"type": "lost", "epoch": item.epoch, "first": item.first, "last": item.last}) + b"\n"

    def position(self, line: bytes) -> Position | None:
        """From the event's own keys."""
        try:
            event = orjson.loads(line)
            offset = event["last"] if event["type"] == "lost" else event["offset"]
            return None if offset is None else Position(str(event["epoch"]), int(offset))
        except (KeyError, TypeError) as error:  # what is no JSON is a ValueError already
            raise ValueError("not an event") from error

    def time_s(self, line: bytes) -> float | None:
        """From the event's own time."""
        event = orjson.loads(line)
        return _seconds(event.get("time", "")) if isinstance(event, dict) else None


class Csv:
    """One row an event, with what a spreadsheet can use; a lost range is of type `lost`, from `offset` to `last`."""

    header = opening = (",".join(COLUMNS) + "\n").encode()

    def line(self, item: StreamEvent | Lost) -> bytes:
        """One row; control characters in texts become blanks, so that it is one line, too."""
        cells = {name: _CONTROL.sub(" ", str(value)) for name, value in _cells(item).items() if value is not None}
        out = io.StringIO()
        csv.writer(out, lineterminator="\n").writerow([cells.get(name, "") for name in COLUMNS])
        return out.getvalue().encode("utf-8", "replace")

    def position(self, line: bytes) -> Position | None:
        """From its columns."""
        row = self._row(line)
        if line + b"\n" == self.header:
            return None
        offset = row["last"] if row["type"] == "lost" else row["offset"]
        return Position(row["epoch"], int(offset)) if offset else None

    def time_s(self, line: bytes) -> float | None:
        """From its column."""
        return _seconds(self._row(line)["time"])

    def _row(self, line: bytes) -> dict[str, str]:
        cells = next(csv.reader([line.decode()]), [])
        if len(cells) != len(COLUMNS):
            raise ValueError(f"{len(cells)} columns, not {len(COLUMNS)}")
        return dict(zip(COLUMNS, cells, strict=True))


def _cells(item: StreamEvent | Lost) -> dict[str, object]:
    if isinstance(item, Lost):
        return {"offset": item.first, "last": item.last, "type": "lost", "epoch": item.epoch}
    common: dict[str, object] = {
        "offset": item.offset,
        "time": format_event_time(item),
        "stream": item.stream,
        "type": item.type,
        "epoch": item.epoch,
    }
    match item:
        case Prediction():
            label, probability = item.top[0]
            of_type = {"label": label, "probability": probability,
                       "start_s": item.window.start_s, "end_s": item.window.end_s}  # fmt: skip
        case Action():
            of_type = {"label": item.label, "probability": item.probability, "start_s": item.started_s,
                       "end_s": item.at_s, "phase": item.phase, "reason": item.reason}  # fmt: skip
        case Status():
            of_type = {"state": item.state, "reason": item.reason}
    return {**common, **of_type}


def _seconds(text: str) -> float | None:
    try:
        return datetime.strptime(text.removesuffix("Z"), TIME_FORMAT).replace(tzinfo=timezone.utc).timestamp()
    except ValueError:
        return None
