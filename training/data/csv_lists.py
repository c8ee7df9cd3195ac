"""Read CSV lists of clips, as spreadsheets and scripts write them. Problems are reported with the line."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from engines.printable import printable
from training.data.clips import SPLITS, Row
from training.data.csv_columns import Columns, Record, find_columns, plain_name
from training.data.file_names import as_label, is_listed_by_mistake, listed_path
from training.data.published_lists import clips_by_stem
from training.data.published_names import charades_labels, kinetics_clip, read_charades_classes, ucf101_group
from training.errors import DataError

MAX_LIST_BYTES = 256 << 20
DELIMITERS = ",;\t|"
MAX_SHOWN = 5


def read_table(path: Path, base: Path, notes: list[str], *, split: str = "", may_lack_label: bool = False) -> list[Row]:
    """Read a CSV with a header. Paths are relative to `base`; rows without a split of their own get `split`.

    Commas, semicolons, tabs and bars separate fields. `notes` gets sentences about rows and columns that are not used.
    """
    # A file that is no list of clips gets the error about its columns, not one about a record.
    header, records = read_records(path, check_header=lambda header: find_columns(path, header, []))
    columns = find_columns(path, header, records)
    if not records:
        raise DataError(f"{path}: no row below its first line; add a line for each clip")
    if columns.unused:
        notes.append(
            f"{path.name}: columns that are not used: {', '.join(map(printable, columns.unused))}"
            + ("" if columns.group is not None else "; if one names the person or the source of a clip, call it group")
        )
    _check_splits(path, columns, records)
    reader = _RowReader(path, base, columns, split, may_lack_label=may_lack_label)
    rows = [row for line, fields in records if (row := reader.read(line, fields)) is not None]
    reader.report(notes)
    return rows


class _RowReader:
    """Turn the records of one list into rows, and count the records that are left out."""

    def __init__(self, path: Path, base: Path, columns: Columns, split: str, *, may_lack_label: bool) -> None:
        self._path, self._base, self._columns, self._split = path, base, columns, split
        self._may_lack_label = may_lack_label
        self._system_files: list[str] = []
        self._absent: list[str] = []
        self._found = 0
        self._films = clips_by_stem(base) if columns.youtube is not None or columns.is_charades else {}
        self._classes: dict[str, str] = {}
        if columns.is_charades:
            if not may_lack_label:
                raise DataError(
                    f"{path}: a list of Charades, whose clips have several labels; give data.multi_label: true"
                )
            self._classes = read_charades_classes(path.with_name("Charades_v1_classes.txt"))

    def read(self, line: int, fields: Sequence[str]) -> Row | None:
        """Return the record's row, or None for a clip that is left out."""
        columns, origin = self._columns, f"{self._path.name}, line {line}"
        label, split = as_label(fields[columns.label]), _value(fields, columns.split) or self._split
        split = SPLITS.get(split.casefold(), split)
        if columns.is_charades:
            assert columns.path is not None
            film = fields[columns.path].strip()
            if film not in self._films:
                self._absent.append(film)
                return None
            name, label = self._films[film], self._charades_text(fields[columns.label], origin)
        elif columns.youtube is not None:
            film, start, end = (fields[index].strip() for index in columns.youtube)
            if not label and split == "test":
                self._absent.append(film)  # Kinetics' test clips were published without labels
                return None
            name = kinetics_clip(self._films, film, start, end) or ""
            if not name:
                self._absent.append(film)
                return None
        else:
            name = _value(fields, columns.path)
        if not name or not (label or self._may_lack_label) or printable(label) != label:
            shown = f"path='{printable(name)}', label='{printable(label)}'"
            raise DataError(f"{self._path}, line {line}: {shown}; give both, in printable characters")
        if is_listed_by_mistake(name.replace("\\", "/")):
            self._system_files.append(name)
            return None
        self._found += 1
        name = listed_path(self._base, name)
        group = _value(fields, columns.group) or ucf101_group(name)
        return Row(path=name, label=label, split=split, group=group, origin=origin)

    def _charades_text(self, actions: str, origin: str) -> str:
        try:
            return ";".join(as_label(name) for name in charades_labels(actions, self._classes))
        except KeyError as error:
            raise DataError(
                f"{self._path}: {origin}: no class {error} in Charades_v1_classes.txt; correct it"
            ) from None

    def report(self, notes: list[str]) -> None:
        """Add sentences about the records left out. Raises `DataError` where most clips of Kinetics are absent."""
        if self._system_files:
            notes.append(
                f"{self._path.name}: {len(self._system_files)} rows name files that are no clips, and are left out: "
                + _few(self._system_files)
            )
        if len(self._absent) > self._found:
            raise DataError(
                f"{self._path}: {len(self._absent)} of {len(self._absent) + self._found} clips are not below "
                f"{self._base}, or have no label: {_few(self._absent)}; give their folder as data.videos"
            )
        if self._absent:
            notes.append(
                f"{self._path.name}: {len(self._absent)} of {len(self._absent) + self._found} clips are absent or have "
                f"no label, and are left out: {_few(self._absent)}"
            )


def read_records(
    path: Path, *, check_header: Callable[[list[str]], object] = lambda header: None
) -> tuple[list[str], list[Record]]:
    """Return the header and the records of a CSV file. Records without any value are left out.

    Before the error for a record with more fields than the header, `check_header` may raise one that says more.
    """
    text = _read_text(path)
    first, _, rest = text.partition("\n")
    if first.strip().lower().startswith("sep=") and len(first.strip()) == 5:  # Excel's hint
        text = f"\n{rest}"
    delimiter = _delimiter(text)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True)
    header: list[str] = []
    records: list[Record] = []
    try:
        for fields in reader:
            if not any(field.strip() for field in fields):
                continue
            if not header:
                header = fields
                continue
            if any(field.strip() for field in fields[len(header) :]):
                check_header(header)
                raise DataError(
                    f"{path}, line {reader.line_num}: {len(fields)} fields, but the first line names {len(header)} "
                    f"columns; put quotes around a value that contains {delimiter!r}"
                )
            records.append((reader.line_num, fields + [""] * (len(header) - len(fields))))
    except csv.Error as error:
        raise DataError(
            f"{path}, line {reader.line_num}: not a CSV list ({error}); check the quotes before this line"
        ) from error
    return header, records


def _read_text(path: Path) -> str:
    """Return the text of a list in UTF-8, or in UTF-16 with a byte order mark as spreadsheets write it."""
    try:
        if path.stat().st_size > MAX_LIST_BYTES:
            raise DataError(f"{path}: {path.stat().st_size} bytes, at most {MAX_LIST_BYTES}; is it a list of clips?")
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    encoding = "utf-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    if data.startswith(b"PK\x03\x04"):
        raise DataError(f"{path}: a zip archive or an Excel workbook; unpack it, or save the list as CSV")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise DataError(
            f"{path}, line {line}: byte 0x{data[error.start]:02x} is not {encoding.removesuffix('-sig').upper()}; save "
            f"the list in UTF-8, in Excel as 'CSV UTF-8' (iconv -f WINDOWS-1252 -t UTF-8)"
        ) from error
    if "\0" in text:
        raise DataError(f"{path}: not a text file in UTF-8; give a CSV list, and save UTF-16 as UTF-8")
    return text


def _delimiter(text: str) -> str:
    """Return the delimiter with which the first line has the most known columns, or else the most columns."""
    line = next((line for line in text.splitlines() if line.strip()), "")

    def score(delimiter: str) -> tuple[bool, int]:
        names = [plain_name(name) for name in line.split(delimiter)]
        return any(name in ("path", "label", "video_name", "file", "filename", "class") for name in names), len(names)

    return max(DELIMITERS, key=score)


def _check_splits(path: Path, columns: Columns, records: Sequence[Record]) -> None:
    """Raise `DataError` for an unknown split, and for a row without a split among rows with one."""
    if columns.split is None:
        return
    values = Counter(_value(fields, columns.split).casefold() for _, fields in records)
    unknown = sorted(value for value in values if value and value not in SPLITS)
    if unknown:
        value = unknown[0]
        line = next(line for line, fields in records if _value(fields, columns.split).casefold() == value)
        found = ", ".join(f"{name[:40]!r} {count} times" for name, count in values.most_common(8))
        raise DataError(f"{path}, line {line}: split={value[:80]!r}; one of {', '.join(SPLITS)}. The list has {found}")
    if values[""] and len(values) > 1:
        line = next(line for line, fields in records if not _value(fields, columns.split))
        raise DataError(
            f"{path}, line {line}: no split, like {values['']} of {len(records)} rows, but other rows have one; give "
            "every row a split, or remove the row"
        )


def _value(fields: Sequence[str], index: int | None) -> str:
    return "" if index is None else fields[index].strip()


def _few(names: Sequence[str]) -> str:
    return ", ".join(map(printable, names[:MAX_SHOWN])) + (", …" if len(names) > MAX_SHOWN else "")
