"""Configure the log of a process: one record a line on stderr, as text or as JSON, for people and for programs."""

from __future__ import annotations

import logging
import os
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import orjson

from engines.printable import printable
from streamclf.errors import UsageError
from streamclf.redact import RedactingFormatter, handle_uncaught_errors, redact
from streamclf.runtime.log_tail import TAIL_VARIABLE, LogTail

LEVEL_VARIABLE: Final = "STREAMCLF_LOG"
FORMAT_VARIABLE: Final = "STREAMCLF_LOG_FORMAT"
"""Environment variables, so that the child processes of a service use the same level and format."""
LEVELS: Final = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}
FORMATS: Final = ("text", "json")
JOURNAL_VARIABLE: Final = "JOURNAL_STREAM"
"""systemd sets it to DEVICE:INODE of the stream that leads to its journal (systemd.exec(5))."""
_PRIORITIES: Final = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))
"""Levels of syslog, which journald reads at the beginning of a line (sd-daemon(3))."""


def set_log_options(level: str | None = None, log_format: str | None = None) -> None:
    """Set the level and format of this process and of its children; None keeps the environment's."""
    for variable, value in ((LEVEL_VARIABLE, level), (FORMAT_VARIABLE, log_format)):
        if value is not None:
            os.environ[variable] = value


def uses_json() -> bool:
    """Return whether log lines are JSON. Raises `UsageError` for another value of the variable."""
    return _choice(FORMAT_VARIABLE, "text", FORMATS) == "json"


def configure_logging(process: str, level: str = "info", *, stream: str | None = None) -> None:
    """Log to stderr, one line a record, without credentials and control characters.

    `process` is named in each line, and so is the `stream` of a process that serves only one. `$STREAMCLF_LOG`
    overrides `level`. Raises `UsageError` for a variable with another value.
    """
    chosen = _choice(LEVEL_VARIABLE, level, tuple(LEVELS))
    handler = logging.StreamHandler()
    handler.setFormatter(
        JsonFormatter(process, stream) if uses_json() else TextFormatter(process, stream, journal=_leads_to_journal())
    )
    handlers: list[logging.Handler] = [handler]
    if tail_path := os.environ.get(TAIL_VARIABLE):
        tail = LogTail(Path(tail_path))
        tail.setFormatter(TextFormatter(process, stream))
        handlers.append(tail)
    logging.basicConfig(level=LEVELS[chosen], handlers=handlers, force=True)
    logging.captureWarnings(capture=True)


def log_as_json(text: str) -> bool:
    """Log `text` as an error if this process logs JSON lines; return whether it does."""
    if not any(isinstance(handler.formatter, JsonFormatter) for handler in logging.getLogger().handlers):
        return False
    logging.getLogger("command").error("%s", text)
    return True


def log_uncaught_errors() -> None:
    """Log an error that nothing catches, in each thread, in the format of the log."""
    log = logging.getLogger()

    def write(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
        log.error("error that nothing caught", exc_info=(kind, error or kind(), trace))

    handle_uncaught_errors(write)


class TextFormatter(RedactingFormatter):
    """Format a record as `TIME LEVEL PROCESS  STREAM: MESSAGE`, with local time and the offset of its zone.

    For journald, which stores time and level itself, the line begins with the level's priority instead of the time.
    """

    def __init__(self, process: str, stream: str | None = None, *, journal: bool = False) -> None:
        super().__init__()
        self._process, self._stream, self._journal = process, stream, journal

    def usesTime(self) -> bool:  # noqa: N802 - the name is logging's
        """Return whether `formatMessage` needs the time as text."""
        return not self._journal

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802
        """Format the local time, like `2026-11-29 05:48:01+0100`."""
        return datetime.fromtimestamp(record.created).astimezone().strftime("%Y-%m-%d %H:%M:%S%z")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        """Format the record's line."""
        stream = _stream_of(record, self._stream)
        message = f"{stream}: {record.message}" if stream and stream != self._stream else record.message
        text = printable(self.clean(f"{record.levelname:<7} {self._process}  {message}"))
        return f"<{_priority(record.levelno)}>{text}" if self._journal else f"{record.asctime} {text}"


class JsonFormatter(RedactingFormatter):
    """Format a record as one JSON object: ts, level, process, logger, stream, message and, for an error, exc."""

    def __init__(self, process: str, stream: str | None = None) -> None:
        super().__init__()
        self._process, self._stream = process, stream

    def format(self, record: logging.LogRecord) -> str:
        """Return the object in one line. A record without a stream has no key `stream`."""
        fields: dict[str, Any] = {
            "ts": datetime.fromtimestamp(record.created).astimezone().isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "process": self._process,
            "logger": record.name,
        }
        if stream := _stream_of(record, self._stream):
            fields["stream"] = stream
        fields["message"] = printable(redact(record.getMessage()))
        if record.exc_info and record.exc_info[0] is not None:
            fields["exc"] = self.formatException(record.exc_info)
        return orjson.dumps(fields).decode()


def _stream_of(record: logging.LogRecord, default: str | None) -> str | None:
    """Return the stream that the record names by `extra={"stream": ...}`, else the process's stream."""
    stream: str | None = getattr(record, "stream", default)
    return stream


def _priority(level: int) -> int:
    return next((priority for least, priority in _PRIORITIES if level >= least), 7)


def _leads_to_journal() -> bool:
    """Return whether stderr is the stream that systemd has connected to its journal."""
    try:
        stat = os.fstat(2)
    except OSError:
        return False
    return os.environ.get(JOURNAL_VARIABLE) == f"{stat.st_dev}:{stat.st_ino}"


def _choice(variable: str, default: str, choices: tuple[str, ...]) -> str:
    value = os.environ.get(variable) or default
    if value.lower() not in choices:
        raise UsageError(f"{variable}={value[:40]}: one of {', '.join(choices)}")
    return value.lower()
