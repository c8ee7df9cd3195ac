"""Write cells of CSV files that people open in spreadsheets."""

from __future__ import annotations

from typing import Final

from engines.printable import printable

_FORMULA: Final = tuple("=+-@＝＋－＠")
"""Spreadsheets evaluate a cell that begins with one of these; some accept the full-width forms, too."""


def csv_cell(value: object) -> str:
    """Return the text of a cell: control characters become escapes, and no text is a formula. None is empty."""
    if value is None:
        return ""
    text = printable(value)
    return f"'{text}" if isinstance(value, str) and text.startswith(_FORMULA) else text
