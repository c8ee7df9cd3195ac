"""Write the events that a query finds to a CSV or Parquet file, for spreadsheets, pandas, DuckDB and Spark."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any, Final, TypeAlias

import orjson

from streamclf.errors import JournalError, UsageError
from streamclf.render.csv_text import csv_cell

LogRow: TypeAlias = tuple[str | None, int | None, str, str, str, str | None, float | None, str]
"""Epoch, offset, time, stream, type, label, probability and body, as in table `events`."""

CSV_COLUMNS: Final = (
    "time", "stream", "type", "label", "probability", "start_s", "end_s", "phase", "reason", "epoch", "offset",
    "region", "model_name",
)  # fmt: skip
"""Later versions add columns at the end."""
PARQUET_COLUMNS: Final = (*CSV_COLUMNS, "body")
_BATCH_ROWS = 50_000


def check_output(path: Path) -> None:
    """Raise `UsageError` unless `path` names a file that can be exported here."""
    if path.suffix not in (".csv", ".parquet"):
        raise UsageError(f"{path}: ends in {path.suffix or 'no suffix'}; give a name that ends in .csv or .parquet")
    if not path.parent.is_dir():
        raise UsageError(f"{path}: directory {path.parent} does not exist; create it first")
    if path.is_dir():
        raise UsageError(f"{path}: is a directory; give the name of a file")
    if path.suffix == ".parquet":
        try:
            import pyarrow.parquet  # noqa: F401
        except ImportError:
            raise UsageError(f"{path}: Parquet needs pyarrow; install it: pip install pyarrow") from None


def export(path: Path, rows: Iterable[LogRow]) -> int:
    """Write one record for each row, and return their number. An existing file is replaced after the last record.

    Raises `JournalError` if the file cannot be written; an existing file is then untouched.
    """
    write: Callable[[Path, Iterator[dict[str, Any]]], int] = _write_csv if path.suffix == ".csv" else _write_parquet
    new_path = path.with_name(path.name + ".new")
    try:
        count = write(new_path, (_record(row) for row in rows))
        new_path.replace(path)
    except OSError as error:
        raise JournalError(f"{path}: {error.strerror or error}; free space or give a writable path") from error
    finally:
        new_path.unlink(missing_ok=True)
    return count


def _record(row: LogRow) -> dict[str, Any]:
    """Return the columns of one event. Start and end are a prediction's window, or an action up to this event."""
    epoch, offset, time, stream, kind, label, probability, body = row
    record: dict[str, Any] = {
        "time": time, "stream": stream, "type": kind, "label": label, "probability": probability,
        "epoch": epoch, "offset": offset, "body": body,
    }  # fmt: skip
    event = orjson.loads(body)
    record |= {"region": event.get("region"), "model_name": event.get("model_name")}
    match kind:
        case "prediction":
            record |= {"start_s": event["window"]["start_s"], "end_s": event["window"]["end_s"]}
        case "action":
            record |= {"start_s": event["started_s"], "end_s": event["at_s"], "phase": event["phase"]}
            record["reason"] = event.get("reason")
        case _:
            record["reason"] = event.get("reason")
    return record


def _write_csv(path: Path, records: Iterator[dict[str, Any]]) -> int:
    """Write UTF-8 text, one line a record: control characters become escapes, and no cell of text is a formula."""
    count = 0
    with path.open("w", encoding="utf-8", errors="replace", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(CSV_COLUMNS)
        for record in records:
            writer.writerow([csv_cell(record.get(name)) for name in CSV_COLUMNS])
            count += 1
    return count


def _write_parquet(path: Path, records: Iterator[dict[str, Any]]) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    text = pa.dictionary(pa.int32(), pa.string())
    types = {
        "time": pa.timestamp("us", tz="UTC"), "probability": pa.float64(), "start_s": pa.float64(),
        "end_s": pa.float64(), "offset": pa.int64(), "body": pa.string(), "reason": pa.string(),
    }  # fmt: skip
    schema = pa.schema([(name, types.get(name, text)) for name in PARQUET_COLUMNS])
    count = 0
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        while batch := list(islice(records, _BATCH_ROWS)):
            for record in batch:
                record["time"] = datetime.fromisoformat(record["time"].replace("Z", "+00:00"))
            writer.write_table(pa.Table.from_pylist(batch, schema=schema))
            count += len(batch)
    return count
