"""Make text from outside safe to print: names, labels and messages must not control a terminal or forge a log line."""

from __future__ import annotations

import logging
import os
import re
from types import TracebackType
from typing import Final

# Control characters (C0, DEL, C1), marks and overrides of the writing direction, line and paragraph separators,
# invisible format characters, and surrogates, which stand for bytes of a file name that are not UTF-8. The zero-width
# joiner is not among them: emoji and some scripts need it.
_UNSAFE: Final = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff]"
)


def printable(text: object) -> str:
    r"""Return `text` on one line, each control character as an escape: `a<ESC>[31m` becomes `a\x1b[31m`.

    Every text that comes from outside passes this function on its way to a terminal, a log or an image. Data formats
    (JSON, SQLite, Parquet) keep the exact text.
    """
    return _UNSAFE.sub(_escape, str(text))


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    named = {9: r"\t", 10: r"\n", 13: r"\r"}.get(code)
    if named:
        return named
    if 0xDC80 <= code <= 0xDCFF:  # Python's form of the byte code - 0xDC00 (PEP 383)
        code -= 0xDC00
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


class PrintableFormatter(logging.Formatter):
    """Format each record on one line. The lines of a traceback are indented, so that none of them looks like a record.

    A subclass may override `clean`, which every text passes first.
    """

    def clean(self, text: str) -> str:
        """Return `text` as it may be shown."""
        return text

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the name is logging's
        """Format the record's line."""
        return printable(self.clean(super().formatMessage(record)))

    def formatException(  # noqa: N802 - the name is logging's
        self,
        ei: tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None],
    ) -> str:
        """Format the traceback. `logging` caches it in the record, where other handlers find it."""
        return self._indent(super().formatException(ei))

    def formatStack(self, stack_info: str) -> str:  # noqa: N802 - the name is logging's
        """Format a stack that was logged without an exception."""
        return self._indent(super().formatStack(stack_info))

    def _indent(self, text: str) -> str:
        return "\n".join(f"    {printable(line)}" for line in self.clean(text).split("\n"))


def path_text(path: str | os.PathLike[str]) -> str:
    r"""Return `path` as valid Unicode: each byte of a name that is not UTF-8 becomes an escape, like `caf\xe9.mp4`."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")
