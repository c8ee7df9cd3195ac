"""Test a source before it is added: a process of its own opens it, for a limited time."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson
from pydantic import ValidationError

from streamclf.config.placeholders import Substitution
from streamclf.config.source import SourceConfig
from streamclf.config.variables import Variables
from streamclf.errors import ConfigError, SourceError, plain_fault
from streamclf.redact import redact
from streamclf.subscribers.web.settings.credentials import separate_credentials
from streamclf.subscribers.web.settings.edits import AddStream

PARALLEL: Final = 2
"""Tests that run at the same time: each may need as much memory as a capture process."""
_MARGIN_S: Final = 6.0
"""Added to twice the time-outs of a source: the start of the process, and the measurement of the rate."""
_MODULE: Final = "streamclf.subscribers.web.settings.source_probe"

_slots: Final = threading.BoundedSemaphore(PARALLEL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The properties of a source that could be opened. `jpeg` is its first picture in base64."""

    codec: str
    width: int
    height: int
    fps: float | None
    note: str | None
    jpeg: str


def test_source(edit: AddStream, config: Path) -> Found:
    """Open the source of a new stream, and read its first picture.

    `config` is the path of the configuration: relative paths start there, and its variables count. Raises
    `ConfigError`, and `SourceError` with the reason that `streamclf check --connect` would give.
    """
    source = _source_of(edit, config)
    if not _slots.acquire(blocking=False):
        raise SourceError(f"{PARALLEL} tests of sources are running, the limit; wait for one to end")
    try:
        return _run(source, 2 * (source.open_timeout_s + source.read_timeout_s) + _MARGIN_S)
    finally:
        _slots.release()


def _source_of(edit: AddStream, config: Path) -> SourceConfig:
    separated = separate_credentials(edit, config)
    environ = {**Variables(os.environ, config), **separated.variables}
    raw = Substitution(environ).apply(separated.edit.source)
    try:
        source = SourceConfig.model_validate(raw)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        raise ConfigError(redact(plain_fault(first["msg"]))) from None
    if source.is_file and not source.is_file_url:
        source = source.model_copy(update={"url": str(config.parent / (source.url or ""))})
    return source


def _run(source: SourceConfig, limit_s: float) -> Found:
    """Run the probe in a process group of its own, and kill the group at the end of the time."""
    with subprocess.Popen(
        [sys.executable, "-m", _MODULE],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:
        try:
            output, _ = process.communicate(source.model_dump_json().encode(), timeout=limit_s)
        except subprocess.TimeoutExpired:
            raise SourceError(f"no picture within {limit_s:g} s; check that the source sends video") from None
        finally:
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
    report = _parse(output)
    if report is None:
        end = f"the process that opened it ended with code {process.returncode}"
        raise SourceError(f"{end}; `streamclf check --connect` shows the reason")
    if "error" in report:
        raise SourceError(str(report["error"]))
    return Found(**report)


def _parse(output: bytes) -> dict[str, Any] | None:
    """Return the report in the last line of the output, which libraries may have written to as well."""
    try:
        report = orjson.loads(output.rstrip().rpartition(b"\n")[2])
    except orjson.JSONDecodeError:
        return None
    return report if isinstance(report, dict) else None
