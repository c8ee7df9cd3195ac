"""Keep the results of an archive in a Parquet file. A run that was stopped leaves parts, which the next one completes.

One row is one window: `file`, `start_s`, `end_s`, `label`, `probability`, and `probabilities` of all labels. A film
that could not be classified has one row with its `error`. The file's metadata names the model and its labels.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from engines.printable import path_text
from streamclf.archive.worker import FilmRows
from streamclf.errors import OutputError, UsageError
from streamclf.runtime.file_lock import open_locked

METADATA_KEY: Final = b"streamclf"
PARTS_KEY: Final = b"streamclf.parts"
"""The name of the parts that a file was made of last."""
ROWS_PER_PART: Final = 50_000
_SUFFIX: Final = ".parts"
_ID_FILE: Final = "id"
_LOCK_FILE: Final = "lock"


class ArchiveResults:
    """The results in `path`, and in parts beside it while a run goes on.

    `identity` describes everything that determines the results: results of different models are never mixed. Raises
    `UsageError` for a file that has another identity or is no file of this command.
    """

    def __init__(self, path: Path, *, identity: dict[str, Any], labels: tuple[str, ...]) -> None:
        self._path, self._labels = path, labels
        self._parts = path.with_name(path.name + _SUFFIX)
        self._schema = _schema(identity, labels)
        self._pending: list[Any] = []
        self._rows = 0
        self.done: set[str] = set()
        """The films that were classified, in this run or before."""
        try:
            if self._parts.is_dir() and _metadata(path).get(PARTS_KEY) == self._parts_id():
                shutil.rmtree(self._parts)  # a run was killed between its last two steps: the file has these parts
            self._parts.mkdir(exist_ok=True)
            self._lock = _lock(self._parts)
            try:
                self._begin()
            except BaseException:
                if not any(self._parts.glob("*.parquet")):
                    shutil.rmtree(self._parts, ignore_errors=True)
                os.close(self._lock)
                raise
        except (OSError, ValueError) as error:
            raise self._error(error) from error

    def add(self, film: FilmRows) -> None:
        """Add a film. It is on disk after `flush`, which follows by itself after enough rows. Raises `OutputError`."""
        table = _table(film, self._labels, self._schema)
        self._pending.append(table)
        self._rows += table.num_rows
        if film.error is None:
            self.done.add(path_text(film.film))
        if self._rows >= ROWS_PER_PART:
            self.flush()

    def flush(self) -> None:
        """Write the films that were added since the last call as one part. Raises `OutputError`."""
        if not self._pending:
            return
        import pyarrow as pa

        self._number += 1
        self._write(self._parts / f"{self._number:08d}.parquet", iter([pa.concat_tables(self._pending)]))
        self._pending, self._rows = [], 0

    def finish(self) -> None:
        """Join all parts with the results of earlier runs into the file, and remove the parts. Raises `OutputError`.

        The rows of a film that failed before and could now be classified are left out.
        """
        self.flush()
        if any(self._parts.glob("*.parquet")) or not self._path.exists():
            self._write(self._path, self._merged(), {PARTS_KEY: self._parts_id()})
        try:
            shutil.rmtree(self._parts)
            os.close(self._lock)
        except OSError as error:
            raise self._error(error) from error

    def _begin(self) -> None:
        """Read which films are done. Raises `OSError`, `ValueError`, and `UsageError` for results of another kind."""
        if not (self._parts / _ID_FILE).exists():
            (self._parts / _ID_FILE).write_text(uuid.uuid4().hex)
        for leftover in self._parts.glob(".*.parquet-*"):
            leftover.unlink()
        self._number = max((int(part.stem) for part in self._parts.glob("*.parquet")), default=0)
        for part in self._files():
            self._read_done(part)

    def _files(self) -> list[Path]:
        parts = sorted(self._parts.glob("*.parquet"))
        return [self._path, *parts] if self._path.exists() else parts

    def _read_done(self, path: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            file = pq.ParquetFile(path)
        except pa.ArrowException as error:
            raise UsageError(f"{path}: is not a complete Parquet file; delete it, or choose another name") from error
        with file:
            found = (file.schema_arrow.metadata or {}).get(METADATA_KEY)
            if found is None:
                raise UsageError(f"{path}: was not written by this command; choose another name")
            wanted = self._schema.metadata[METADATA_KEY]
            if found != wanted:
                raise UsageError(f"{path}: {_difference(found, wanted)}; choose another name")
            self.done |= {name for name, error in _names_and_errors(file) if error is None}

    def _parts_id(self) -> bytes:
        try:
            return (self._parts / _ID_FILE).read_bytes()
        except FileNotFoundError:
            return b""

    def _merged(self) -> Iterator[Any]:
        """Yield the tables of all files. Of each film that failed, only its last failure is kept."""
        import pyarrow as pa
        import pyarrow.compute as pc
        import pyarrow.parquet as pq

        files, last_failure = self._files(), dict[str, int]()
        for number, path in enumerate(files):
            with pq.ParquetFile(path) as file:
                last_failure |= {name: number for name, error in _names_and_errors(file) if error is not None}
        for number, path in enumerate(files):
            kept = pa.array(sorted(name for name, last in last_failure.items() if last == number), pa.string())
            again = pa.array(sorted(last_failure.keys() & self.done), pa.string())
            with pq.ParquetFile(path) as file:
                for group in range(file.num_row_groups):
                    table = file.read_row_group(group)
                    is_last = pc.and_(
                        pc.is_in(table["file"], value_set=kept), pc.invert(pc.is_in(table["file"], value_set=again))
                    )
                    yield table.filter(pc.or_(pc.is_null(table["error"]), is_last))

    def _write(self, path: Path, tables: Iterator[Any], metadata: Mapping[bytes, bytes] | None = None) -> None:
        """Write a file under a hidden name, and give it its name when it is complete and on disk."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        partial = path.with_name(f".{path.name}-{os.getpid()}")
        try:
            schema = self._schema.with_metadata({**self._schema.metadata, **(metadata or {})})
            with pq.ParquetWriter(partial, schema, compression="zstd") as writer:
                for table in tables:
                    writer.write_table(table.replace_schema_metadata(schema.metadata))
            with partial.open("rb") as file:
                os.fsync(file.fileno())
            partial.replace(path)
        except (OSError, pa.ArrowException) as error:
            raise self._error(error) from error
        finally:
            partial.unlink(missing_ok=True)

    def _error(self, error: Exception) -> OutputError:
        reason = (isinstance(error, OSError) and error.strerror) or " ".join(str(error).split())
        return OutputError(f"-o {self._path}: {reason}; free space or give a writable path. The same command continues")


def _lock(folder: Path) -> int:
    """Lock a folder for this process until the descriptor is closed. Raises `UsageError` if another process has it."""
    descriptor = open_locked(folder / _LOCK_FILE)
    if descriptor is None:
        raise UsageError(f"{folder}: another run writes these results; wait for it, or choose another name")
    return descriptor


def _metadata(path: Path) -> Mapping[bytes, bytes]:
    """Return the metadata of a file, empty if it is missing or damaged."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_schema(path).metadata or {}
    except (OSError, pa.ArrowException):
        return {}


def _names_and_errors(file: Any) -> Iterator[tuple[str, str | None]]:
    for batch in file.iter_batches(columns=["file", "error"]):
        yield from zip(batch["file"].to_pylist(), batch["error"].to_pylist(), strict=True)


def _schema(identity: dict[str, Any], labels: tuple[str, ...]) -> Any:
    import pyarrow as pa

    fields = [
        pa.field("file", pa.string(), nullable=False),
        pa.field("start_s", pa.float64()),
        pa.field("end_s", pa.float64()),
        pa.field("label", pa.string()),
        pa.field("probability", pa.float32()),
        pa.field("probabilities", pa.list_(pa.float32())),
        pa.field("error", pa.string()),
        pa.field("warning", pa.string()),
    ]
    text = json.dumps({**identity, "labels": labels}, sort_keys=True, ensure_ascii=False)
    return pa.schema(fields, metadata={METADATA_KEY: text.encode()})


def _table(film: FilmRows, labels: tuple[str, ...], schema: Any) -> Any:
    import pyarrow as pa

    name, count = path_text(film.film), max(len(film.starts_s), 1)
    if film.error is not None or not len(film.starts_s):
        row: dict[str, Any] = dict.fromkeys(schema.names)
        row |= {"file": name, "error": film.error or "has no window", "warning": film.warning}
        return pa.Table.from_pylist([row], schema)
    top = film.probabilities.argmax(axis=1)
    columns = [
        pa.array([name] * count, pa.string()),
        pa.array(film.starts_s),
        pa.array(film.ends_s),
        pa.array([labels[index] for index in top], pa.string()),
        pa.array(film.probabilities[np.arange(count), top]),
        pa.ListArray.from_arrays(
            pa.array(np.arange(count + 1, dtype=np.int32) * len(labels)), pa.array(film.probabilities.reshape(-1))
        ),
        pa.nulls(count, pa.string()),
        pa.array([film.warning] * count, pa.string()),
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def _difference(found: bytes, wanted: bytes) -> str:
    """Say in which keys two identities differ."""
    try:
        before, now = json.loads(found), json.loads(wanted)
        keys = sorted(key for key in {*before, *now} if before.get(key) != now.get(key))
    except (ValueError, AttributeError):
        return "has other metadata"
    return "has results of " + ", ".join(f"{key} {before.get(key)!r} (now {now.get(key)!r})" for key in keys[:3])
