"""`streamclf query`: find events in a log or in a service's journal, also while it is written; print or export them."""

from __future__ import annotations

import sqlite3
import sys
import time
import unicodedata
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, Final

import orjson
from rich.cells import cell_len, set_cell_size

from engines.printable import printable
from streamclf.config.units import match_duration
from streamclf.errors import JournalError, UsageError
from streamclf.events import journal_format
from streamclf.events.kinds import JOURNALLED
from streamclf.events.views import MAX_LABEL_CHARS, SEPARATOR, ViewKey
from streamclf.net.names import describe_unknown, valid_stream_name
from streamclf.subscribers.log.export import LogRow, check_output, export
from streamclf.subscribers.log.sinks import APPLICATION_ID

MAX_LIMIT: Final = 100_000
DEFAULT_LIMIT: Final = 100
_DEADLINE_S = 30.0
"""Longest time of a query whose result is printed."""
_HINT_S = 2.0
_MAX_HINTS = 1000
_STEPS = 100_000
"""SQLite's virtual machine instructions between two checks of the deadline: some milliseconds."""
_MAX_DURATION_S = 100 * 366 * 86400
_REMEDY = "the .db file of: streamclf log ENDPOINT -o FILE, or a service's publish.journal"
_JOURNAL_AS_LOG: Final = """
CREATE TEMP VIEW events AS SELECT
    offset AS id, (SELECT value FROM main.meta WHERE key='epoch') AS epoch, offset,
    json_extract(CAST(body AS TEXT), '$.time') AS time, stream, type,
    json_extract(CAST(body AS TEXT),
        CASE type WHEN 'prediction' THEN iif(json_type(CAST(body AS TEXT), '$.labels') = 'array', '$.labels[0]',
            '$.top[0][0]') WHEN 'status' THEN '$.state' ELSE '$.label' END) AS label,
    CASE type WHEN 'prediction' THEN CASE WHEN json_extract(CAST(body AS TEXT), '$.labels[0]') IS NULL
            THEN json_extract(CAST(body AS TEXT), '$.top[0][1]')
            ELSE (SELECT json_extract(value, '$[1]') FROM json_each(CAST(body AS TEXT), '$.top')
                WHERE json_extract(value, '$[0]') = json_extract(CAST(body AS TEXT), '$.labels[0]') LIMIT 1) END
        WHEN 'status' THEN NULL ELSE json_extract(CAST(body AS TEXT), '$.probability') END AS probability,
    CAST(body AS TEXT) AS body, json_extract(CAST(body AS TEXT), '$.region') AS region,
    json_extract(CAST(body AS TEXT), '$.model_name') AS model_name
FROM main.events WHERE crc32(CAST(body AS BLOB)) = crc;
"""
"""Give a journal the columns of a log. The view exists in this connection only; damaged events are left out."""

_EARLIER_LOG: Final = "CREATE TEMP VIEW events AS SELECT *, NULL AS region, NULL AS model_name FROM main.events"
"""Give a log of an earlier version the columns of this one."""


def run_query(
    db: Path,
    *,
    label: str | None = None,
    stream: str | None = None,
    region: str | None = None,
    model: str | None = None,
    type: str | None = None,  # noqa: A002 - the name of the event's key
    since: str | None = None,
    until: str | None = None,
    min_p: float | None = None,
    limit: int | None = None,
    as_json: bool = False,
    output: Path | None = None,
) -> int:
    """Print or export the newest events that match, oldest first; return the exit code.

    `limit` is 100 for printing, and no limit for an export, unless it is given. `since` and `until` are a time like
    2026-01-31T12:00 (local unless it names a zone) or an age like 90s, 1h, 7d. `as_json` prints each event as it was
    published, one a line. `output` is a .csv or .parquet file, which is replaced where it exists. Raises `UsageError`,
    and `JournalError` for a file that is neither a log nor a journal.
    """
    if output is not None:
        if as_json:
            raise UsageError("--json prints and -o exports; give one of them")
        check_output(output)
    query = _Query(DEFAULT_LIMIT if limit is None and output is None else limit)
    query.matches_any("label", _forms(_checked_label(label)))
    query.equals("stream", _checked_name("stream", stream))
    query.equals("region", _checked_name("region", region))
    query.equals("model_name", _checked_name("model", model))
    query.equals("type", _checked_type(type))
    query.compare("time", ">=", None if since is None else _parse_moment(since, "since"))
    query.compare("time", "<=", None if until is None else _parse_moment(until, "until"))
    query.compare("probability", ">=", _checked_probability(min_p))
    with open_log(db) as connection:
        if output is not None:
            count = export(output, query.oldest_first(connection))
            print(f"streamclf query: {count} events exported to {printable(output)}", file=sys.stderr)
            return 0
        rows = query.newest_first(connection, db)
        wanted = {"stream": stream, "region": region, "model_name": model, "label": label}
        hints = [] if rows else [*_hints(connection, db, wanted)]
    for hint in hints:
        print(f"streamclf query: {printable(hint)}", file=sys.stderr)
    rows.reverse()
    if as_json:
        for row in rows:
            sys.stdout.buffer.write(row[-1].encode() + b"\n")  # UTF-8, whatever the terminal's encoding
    else:
        print("".join(f"{line}\n" for line in _lines(rows, is_brief=sys.stdout.isatty())), end="")
    sys.stdout.flush()
    return 0


class _Query:
    """Build a SELECT statement; values are bound and never become part of the SQL. A limit of None finds all events."""

    def __init__(self, limit: int | None) -> None:
        if limit is not None and not 1 <= limit <= MAX_LIMIT:
            raise UsageError(f"limit={limit}: 1 to {MAX_LIMIT}")
        self._limit = limit
        self._terms: list[str] = []
        self._values: list[object] = []

    def equals(self, column: str, value: str | None) -> None:
        """Find only rows with this value; None means any."""
        self.compare(column, "=", value)

    def matches_any(self, column: str, values: Sequence[str]) -> None:
        """Find only rows with one of these values; none means any."""
        if values:
            self._terms.append(f"{column} IN ({', '.join('?' * len(values))})")
            self._values += values

    def compare(self, column: str, operator: str, value: object) -> None:
        """Find only rows for which the comparison is true; None means any."""
        if value is not None:
            self._terms.append(f"{column}{operator}?")
            self._values.append(value)

    def newest_first(self, connection: sqlite3.Connection, db: Path) -> list[tuple[Any, ...]]:
        """Return (time, stream, type, label, probability, body) of each row. Raises `JournalError` after 30 s."""
        end_s = time.monotonic() + _DEADLINE_S
        connection.set_progress_handler(lambda: time.monotonic() > end_s, _STEPS)
        try:
            sql = self._sql("time, stream, type, label, probability, body")
            return connection.execute(sql, self._bound()).fetchall()
        except sqlite3.OperationalError as error:
            if time.monotonic() > end_s:
                raise JournalError(
                    f"{db}: no answer within {_DEADLINE_S:.0f} s; give --since, --stream or --label"
                ) from error
            raise

    def oldest_first(self, connection: sqlite3.Connection) -> Iterator[LogRow]:
        """Return a cursor over the rows of an export, which has no deadline."""
        columns = "epoch, offset, time, stream, type, label, probability, body"
        sql = self._sql(f"id, {columns}")
        return connection.execute(f"SELECT {columns} FROM ({sql}) ORDER BY time, id", self._bound())  # noqa: S608

    def _sql(self, columns: str) -> str:
        where = f" WHERE {' AND '.join(self._terms)}" if self._terms else ""
        # Without a filter, the order of the ids serves as the order of time: it needs no index.
        order = "time DESC, id DESC" if self._terms else "id DESC"
        return f"SELECT {columns} FROM events{where} ORDER BY {order} LIMIT ?"  # noqa: S608

    def _bound(self) -> tuple[object, ...]:
        return (*self._values, -1 if self._limit is None else self._limit)


def _hints(connection: sqlite3.Connection, db: Path, wanted: Mapping[str, str | None]) -> Iterator[str]:
    """Yield a line for each name that no event has, with the names that there are. Takes at most two seconds."""
    end_s = time.monotonic() + _HINT_S
    connection.set_progress_handler(lambda: time.monotonic() > end_s, _STEPS)
    for column, name in wanted.items():
        if name is None:
            continue
        with suppress(sqlite3.OperationalError):  # it took too long: no hint
            sql = f"SELECT DISTINCT {column} FROM events WHERE {column} IS NOT NULL ORDER BY 1 LIMIT {_MAX_HINTS}"  # noqa: S608
            known = [row[0] for row in connection.execute(sql)]
            if len(known) < _MAX_HINTS and not set(_forms(name)) & set(known):
                yield describe_unknown(column.removesuffix("_name"), name, known, str(db))


@contextmanager
def open_log(db: Path) -> Iterator[sqlite3.Connection]:
    """Open a log or a journal for reading only. Raises `JournalError` for another file, also while it is read."""
    if not db.is_file():
        raise UsageError(f"{db}: no such file; give {_REMEDY}")
    try:
        with closing(sqlite3.connect(f"{db.absolute().as_uri()}?mode=ro", uri=True, timeout=5.0)) as connection:
            owner = int(connection.execute("PRAGMA application_id").fetchone()[0])
            if owner == journal_format.APPLICATION_ID:
                journal_format.check_format(connection, db)
                connection.create_function("crc32", 1, zlib.crc32, deterministic=True)
                connection.executescript(_JOURNAL_AS_LOG)
            elif owner != APPLICATION_ID:
                raise JournalError(f"{db}: neither a log nor a journal; give {_REMEDY}")
            elif "region" not in {row[1] for row in connection.execute("PRAGMA table_info(events)")}:
                connection.execute(_EARLIER_LOG)
            yield connection
    except sqlite3.Error as error:
        raise JournalError(f"{db}: {error}; give {_REMEDY}") from error


def _lines(rows: Sequence[tuple[Any, ...]], *, is_brief: bool) -> list[str]:
    """Format the rows in columns, each as wide as its longest text. A brief time has no fraction of a second.

    There is a column of views if an event has one with names.
    """
    has_views = any(_view_text(row[-1]) for row in rows)
    cells = [
        (
            f"{at.partition('.')[0]}Z" if is_brief else at,
            stream,
            *([_view_text(body)] if has_views else []),
            kind,
            "" if probability is None else f"{probability:.3f}",
            printable(label or ""),
            printable(_detail(kind, body)),
        )
        for at, stream, kind, label, probability, body in rows
    ]
    widths = [max(map(cell_len, column)) for column in zip(*cells, strict=True)]
    return ["  ".join(set_cell_size(*each) for each in zip(row, widths, strict=True)).rstrip() for row in cells]


def _detail(kind: str, body: str) -> str:
    event = orjson.loads(body)
    match kind:
        case "prediction":
            others = ", ".join((event.get("labels") or ())[1:])
            also = f"; also {others}" if others else ""
            return f"{event['window']['start_s']:.2f} to {event['window']['end_s']:.2f} s{also}"
        case "action":
            return f"{event['phase']} at {event['at_s']:.2f} s, since {event['started_s']:.2f} s"
        case "clip":
            part = "" if event["part"] == 1 and event["last"] else f", part {event['part']}"
            return f"{event['start_s']:.2f} to {event['end_s']:.2f} s{part}: {event['file']}"
        case _:
            return str(event.get("reason") or "")


def _view_text(body: str) -> str:
    if '"region"' not in body and '"model_name"' not in body:
        return ""
    event = orjson.loads(body)
    return SEPARATOR.join(ViewKey(event.get("region"), event.get("model_name")).names)


def _parse_moment(text: str, option: str) -> str:
    """Convert a time or an age to the log's form of a time, which sorts as text. Raises `UsageError`."""
    if (age_s := match_duration(text)) is not None:
        if age_s > _MAX_DURATION_S:
            raise UsageError(f"{option}={text!r}: at most 100 years")
        moment = datetime.now(timezone.utc) - timedelta(seconds=age_s)
    else:
        try:
            moment = datetime.fromisoformat(text.replace("Z", "+00:00")).astimezone(timezone.utc)
        except (ValueError, OverflowError):
            raise UsageError(
                f"{option}={text!r}: must be an age like 90s, 1h, 7d, or a time like 2026-01-31T12:00"
            ) from None
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond:06d}Z"


def _checked_label(label: str | None) -> str | None:
    if label is not None and not 1 <= len(label) <= MAX_LABEL_CHARS:
        raise UsageError(f"label of {len(label)} characters: 1 to {MAX_LABEL_CHARS}")
    return label


def _forms(label: str | None) -> tuple[str, ...]:
    """Return `label` as given, and with composed and with decomposed accents: which form a model has is invisible."""
    if label is None:
        return ()
    return tuple(dict.fromkeys((label, *(unicodedata.normalize(form, label) for form in ("NFC", "NFD")))))


def _checked_name(kind: str, name: str | None) -> str | None:
    if name is not None and not valid_stream_name(name):
        raise UsageError(f"{kind} {name!r}: 1 to 64 of letters, digits, _ and -")
    return name


def _checked_type(kind: str | None) -> str | None:
    if kind is not None and kind not in JOURNALLED:
        raise UsageError(f"type {kind!r}: one of {', '.join(JOURNALLED)}")
    return kind


def _checked_probability(min_p: float | None) -> float | None:
    if min_p is not None and not 0 <= min_p <= 1:
        raise UsageError(f"min_p={min_p}: 0 to 1")
    return min_p
