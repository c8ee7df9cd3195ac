"""`streamclf query`: the newest events that match, from the file that `streamclf log` writes, while it writes."""

from __future__ import annotations

import re
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, Final

import orjson

from streamclf.config.service import DURATION, DURATION_S
from streamclf.errors import JournalError, UsageError
from streamclf.events.types import JOURNALLED
from streamclf.net.names import valid_stream_name

MAX_LIMIT: Final = 100_000
_APPLICATION_ID: Final = 0x73636C67  # "sclg", as streamclf.subscribers.log.sinks marks its files
_DEADLINE_S = 30.0
_STEPS = 100_000
"""SQLite's virtual machine instructions between two looks at the clock: some milliseconds."""
_MAX_LABEL_CHARS = 128
_MAX_DURATION_S = 100 * 366 * 86400
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def run_query(
    db: Path,
    *,
    label: str | None = None,
    stream: str | None = None,
    type: str | None = None,  # noqa: A002 - the name of the event's key
    since: str | None = None,
    until: str | None = None,
    min_p: float | None = None,
    limit: int = 100,
    as_json: bool = False,
) -> int:
    """Print at most `limit` of the newest events that match, oldest first; the exit code.

    `since` and `until` are a time like 2026-01-31T12:00 (local unless it says otherwise) or an age like 90s, 1h, 7d.
    `as_json` prints each event as it was on the wire, one a line. Raises `UsageError`, or `JournalError` for a file
    that is not such a log.
    """
    query = _Query(limit)
    query.equals("label", _checked_label(label))
    query.equals("stream", _checked_stream(stream))
    query.equals("type", _checked_type(type))
    query.compare("time", ">=", None if since is None else _moment(since, "since"))
    query.compare("time", "<=", None if until is None else _moment(until, "until"))
    query.compare("probability", ">=", _checked_probability(min_p))
    with _opened(db) as connection:
        rows = query.rows(connection, db)
    for row in reversed(rows):
        print(row[-1] if as_json else _line(*row))
    return 0


class _Query:
    """A SELECT whose values never become SQL."""

    def __init__(self, limit: int) -> None:
        if not 1 <= limit <= MAX_LIMIT:
            raise UsageError(f"limit={limit}: 1 to {MAX_LIMIT}")
        self._limit = limit
        self._terms: list[str] = []
        self._values: list[object] = []

    def equals(self, column: str, value: str | None) -> None:
        """Only rows with this value; None means any."""
        self.compare(column, "=", value)

    def compare(self, column: str, operator: str, value: object) -> None:
        """Only rows where it holds; None means any."""
        if value is not None:
            self._terms.append(f"{column}{operator}?")
            self._values.append(value)

    def rows(self, connection: sqlite3.Connection, db: Path) -> list[tuple[Any, ...]]:
        """(time, stream, type, label, probability, body), newest first."""
        where = f" WHERE {' AND '.join(self._terms)}" if self._terms else ""
        # Nothing but time is filtered or nothing at all: the table's own order is time's order, without an index.
        order = "time DESC, id DESC" if self._terms else "id DESC"
        sql = f"SELECT time, stream, type, label, probability, body FROM events{where} ORDER BY {order} LIMIT ?"  # noqa: S608
        end = time.monotonic() + _DEADLINE_S
        connection.set_progress_handler(lambda: time.monotonic() > end, _STEPS)
        try:
            return connection.execute(sql, (*self._values, self._limit)).fetchall()
        except sqlite3.OperationalError as error:
            if time.monotonic() > end:
                raise JournalError(
                    f"{db}: no answer within {_DEADLINE_S:.0f} s; give --since, --stream or --label"
                ) from error
            raise


@contextmanager
def _opened(db: Path) -> Iterator[sqlite3.Connection]:
    """A connection that can only read. Raises `JournalError` for what is not a log, also while it is read."""
    if not db.is_file():
        raise UsageError(f"{db}: no such file; give the one of: streamclf log ENDPOINT -o {db.name}")
    try:
        with closing(sqlite3.connect(f"{db.absolute().as_uri()}?mode=ro", uri=True, timeout=5.0)) as connection:
            owner = int(connection.execute("PRAGMA application_id").fetchone()[0])
            if owner != _APPLICATION_ID:
                raise JournalError(f"{db}: not a log of events; give the .db file of: streamclf log ENDPOINT -o FILE")
            yield connection
    except sqlite3.Error as error:
        raise JournalError(f"{db}: {error}; give the .db file of: streamclf log ENDPOINT -o FILE") from error


def _line(at: str, stream: str, kind: str, label: str | None, probability: float | None, body: str) -> str:
    shown = "" if probability is None else f"{probability:.3f}"
    text = f"{at:<27}  {stream:<16}  {kind:<10}  {shown:>5}  {label or '':<20}  {_detail(kind, body)}"
    return _CONTROL.sub("�", text.rstrip())  # a label must not steer the terminal


def _detail(kind: str, body: str) -> str:
    event = orjson.loads(body)
    match kind:
        case "prediction":
            return f"{event['window']['start_s']:.2f} to {event['window']['end_s']:.2f} s"
        case "action":
            return f"{event['phase']} at {event['at_s']:.2f} s, since {event['started_s']:.2f} s"
        case _:
            return str(event.get("reason") or "")


def _moment(text: str, option: str) -> str:
    """`text` as the log writes times, which compare as text."""
    if match := DURATION.match(text):
        age_s = float(match[1]) * DURATION_S[match[2]]
        if age_s > _MAX_DURATION_S:
            raise UsageError(f"{option}={text!r}: at most 100 years")
        moment = datetime.now(timezone.utc) - timedelta(seconds=age_s)
    else:
        try:
            moment = datetime.fromisoformat(text.replace("Z", "+00:00")).astimezone(timezone.utc)
        except (ValueError, OverflowError):
            raise UsageError(f"{option}={text!r}: an age like 90s, 1h, 7d, or a time like 2026-01-31T12:00") from None
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond:06d}Z"


def _checked_label(label: str | None) -> str | None:
    if label is not None and not 1 <= len(label) <= _MAX_LABEL_CHARS:
        raise UsageError(f"label of {len(label)} characters: 1 to {_MAX_LABEL_CHARS}")
    return label


def _checked_stream(stream: str | None) -> str | None:
    if stream is not None and not valid_stream_name(stream):
        raise UsageError(f"stream {stream!r}: 1 to 64 of letters, digits, _ and -")
    return stream


def _checked_type(kind: str | None) -> str | None:
    if kind is not None and kind not in JOURNALLED:
        raise UsageError(f"type {kind!r}: one of {', '.join(JOURNALLED)}")
    return kind


def _checked_probability(min_p: float | None) -> float | None:
    if min_p is not None and not 0 <= min_p <= 1:
        raise UsageError(f"min_p={min_p}: 0 to 1")
    return min_p
