"""Measure in parts and log each part in a file, so that an interrupted measurement continues where it ended.

The log has one JSON line for the beginning of a part, and one for its result or error. A part that began and has no
result was killed; it is tried once more, after the parts that were never tried.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from streamclf.errors import BenchError

MAX_TRIES: Final = 2
MIN_S: Final = 20.0
"""A part does not begin if less time than this is left for it."""

Result = dict[str, Any]
MeasurePart = Callable[[str, float], Result]
"""(part, seconds that it may take) -> its figures; raises `BenchError`."""


class PartLog:
    """Keep the results of parts: in the file `path`, or in memory if there is none."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._results: dict[str, Result] = {}
        self._tries: dict[str, int] = {}
        if path is not None and path.exists():
            self._read(path)

    @property
    def results(self) -> Mapping[str, Result]:
        """The figures by part, or `{"error": ...}`."""
        return self._results

    def measure(
        self,
        parts: Sequence[str],
        measure: MeasurePart,
        *,
        part_s: float,
        within_s: float | None = None,
        retry_failed: bool = False,
        progress: Callable[[str], None] = lambda _: None,
    ) -> list[str]:
        """Measure the parts that have no result yet, each for at most `part_s`; return the parts that remain.

        Parts remain if `within_s` has passed. A part that fails has its error as its result, and the other parts go on.
        With `retry_failed`, parts that failed or were killed too often are tried again. Raises `BenchError` if the log
        cannot be written.
        """
        until = None if within_s is None else time.monotonic() + within_s
        waiting = [part for part in parts if self._is_wanted(part, retry_failed)]
        waiting.sort(key=lambda part: self._tries.get(part, 0))  # stable: parts that were killed move to the end
        for number, part in enumerate(waiting):
            left_s = part_s if until is None else min(part_s, until - time.monotonic())
            if left_s < min(MIN_S, part_s):
                return waiting[number:]
            self._append({"part": part, "begun": True})
            progress(f"{part} ({number + 1} of {len(waiting)})")
            try:
                result = measure(part, left_s)
            except BenchError as error:
                result = {"error": str(error)}
            self._append({"part": part, "result": result})
        return []

    def _is_wanted(self, part: str, retry_failed: bool) -> bool:
        result = self._results.get(part)
        if result is None:
            return retry_failed or self._tries.get(part, 0) < MAX_TRIES
        return retry_failed and "error" in result

    def _append(self, line: dict[str, Any]) -> None:
        """Apply a line and write it to the file, synced to the disk."""
        self._apply(line)
        if self._path is None:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("ab+") as file:
                size = file.seek(0, os.SEEK_END)
                if size and (file.seek(-1, os.SEEK_END), file.read(1))[1] != b"\n":
                    file.write(b"\n")  # the process was killed while it wrote a line
                file.write(json.dumps(line).encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise BenchError(
                f"{self._path}: cannot be written ({error.strerror}); choose another file for --keep"
            ) from error

    def _apply(self, line: dict[str, Any]) -> None:
        part = str(line["part"])
        if "result" in line:
            self._results[part] = dict(line["result"])
        else:
            self._tries[part] = self._tries.get(part, 0) + 1

    def _read(self, path: Path) -> None:
        try:
            lines = path.read_bytes().splitlines()
        except OSError as error:
            raise BenchError(f"{path}: cannot be read ({error.strerror}); choose another file for --keep") from error
        for number, text in enumerate(lines, start=1):
            try:
                self._apply(json.loads(text))
            except (ValueError, KeyError, TypeError) as error:  # noqa: PERF203 - each one may be torn
                if number == 1:
                    raise BenchError(
                        f"{path}: not a file that --keep has written; choose another file for --keep"
                    ) from error
