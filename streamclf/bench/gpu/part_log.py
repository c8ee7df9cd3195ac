"""A measurement in parts, each kept as soon as it is made: what is killed in the middle goes on where it was.

One JSON line for each thing that happens to a part: it begins, and it has a result or an error. A part that began and
has neither was killed; it is tried once more, after those that were never tried.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from streamclf.errors import BenchError

TRIES: Final = 2
MIN_S: Final = 20.0
"""A part for which less time is left is not begun."""

Result = dict[str, Any]
Measure = Callable[[str, float], Result]
"""(part, seconds it may take) -> its figures; raises `BenchError`."""


class PartLog:
    """What is known of each part; in the file `path`, or without one for this run alone."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._results: dict[str, Result] = {}
        self._begun: dict[str, int] = {}
        if path is not None and path.exists():
            self._read(path)

    @property
    def results(self) -> Mapping[str, Result]:
        """By part: its figures, or `{"error": ...}`."""
        return self._results

    def measure(
        self,
        parts: Sequence[str],
        measure: Measure,
        *,
        part_s: float,
        within_s: float | None = None,
        again: bool = False,
        told: Callable[[str], None] = lambda _: None,
    ) -> list[str]:
        """Measure what has no result yet; the parts that are left because `within_s` is over.

        A part's failure is its result, and the others go on. `again` also tries those once more that failed.
        """
        until = None if within_s is None else time.monotonic() + within_s
        waiting = [part for part in parts if self._is_wanted(part, again)]
        waiting.sort(key=lambda part: self._begun.get(part, 0))  # killed ones last; the order is kept otherwise
        for number, part in enumerate(waiting):
            left_s = part_s if until is None else min(part_s, until - time.monotonic())
            if left_s < min(MIN_S, part_s):
                return waiting[number:]
            self._note({"part": part, "begun": True})
            told(f"{part} ({number + 1} of {len(waiting)})")
            try:
                result = measure(part, left_s)
            except BenchError as error:
                result = {"error": str(error)}
            self._note({"part": part, "result": result})
        return []

    def _is_wanted(self, part: str, again: bool) -> bool:
        found = self._results.get(part)
        if found is None:
            return again or self._begun.get(part, 0) < TRIES
        return again and "error" in found

    def _note(self, line: dict[str, Any]) -> None:
        self._take(line)
        if self._path is None:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("ab+") as file:
                size = file.seek(0, os.SEEK_END)
                if size and (file.seek(-1, os.SEEK_END), file.read(1))[1] != b"\n":
                    file.write(b"\n")  # it was killed in the middle of a line
                file.write(json.dumps(line).encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise BenchError(f"{self._path}: cannot be written ({error.strerror}); choose another --keep") from error

    def _take(self, line: dict[str, Any]) -> None:
        part = str(line["part"])
        if "result" in line:
            self._results[part] = dict(line["result"])
        else:
            self._begun[part] = self._begun.get(part, 0) + 1

    def _read(self, path: Path) -> None:
        try:
            lines = path.read_bytes().splitlines()
        except OSError as error:
            raise BenchError(f"{path}: cannot be read ({error.strerror}); choose another --keep") from error
        for number, text in enumerate(lines, start=1):
            try:
                self._take(json.loads(text))
            except (ValueError, KeyError, TypeError) as error:  # noqa: PERF203 - each one may be torn
                if number == 1:
                    raise BenchError(f"{path}: not a file of kept figures; choose another --keep") from error
