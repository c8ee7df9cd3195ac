"""CSV lists of spreadsheets and scripts: a column of splits is used or refused, and no row is lost without a note."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest

from training.data.clip_lists import read_rows
from training.data.clips import Row
from training.data.splits import split_by_list
from training.errors import DataError

ROWS = [("a/1.mp4", "wave", "train"), ("a/2.mp4", "wave", "val"), ("b/1.mp4", "still", "train")]


def write(path: Path, header: str, rows: list[tuple[str, ...]], *, delimiter: str = ",", end: str = "\n") -> Path:
    path.write_bytes("".join(delimiter.join(row) + end for row in [tuple(header.split("|")), *rows]).encode())
    return path


def rows_of(path: Path) -> list[tuple[str, str, str]]:
    return [(row.path, row.label, row.split) for row in read_rows(path)[0]]


@pytest.mark.parametrize(
    "header",
    [
        "path|label|Split",
        "path|label| split",
        "path|label|subset",
        "Path|Label|SET",
        " path |class|phase",
        "filename|category|partition",
        "video_path|Class Name|Data-Split",
        "\ufeffpath|label|split",
        '"path"|"label"|"split"',
        'file| "action"| "Usage"',
        "#video_name|tag|fold",
    ],
)
def test_columns_are_recognised_by_other_names(tmp_path: Path, header: str) -> None:
    assert rows_of(write(tmp_path / "list.csv", header, ROWS)) == ROWS


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_delimiters_and_line_ends_are_recognised(tmp_path: Path, delimiter: str, end: str) -> None:
    path = write(tmp_path / "list.csv", "path|label|split", ROWS, delimiter=delimiter, end=end)
    assert rows_of(path) == ROWS


def test_excel_files_are_read(tmp_path: Path) -> None:
    text = "sep=;\r\npath;label;split;;\r\n\r\na/1.mp4 ;wave ;Train ;;\r\n;;;;\r\n"
    (tmp_path / "list.csv").write_bytes(text.encode("utf-16"))
    assert rows_of(tmp_path / "list.csv") == [("a/1.mp4", "wave", "train")]


@pytest.mark.parametrize(
    ("header", "values", "message"),
    [
        (
            "path|label|type",
            ("train", "val", "train"),
            r"'type' may say which clips .* \('train', 'val'",
        ),
        ("path|label|spilt", ("a", "b", "a"), "'spilt' may say"),
        ("path|label|stage", ("Train", "Eval", "Train"), "'stage' may say"),
        ("path|label|part", ("train_1", "2", "3"), "'part' may say"),
        ("path|label|is_train", ("1", "0", "1"), "'is_train' may say"),
        ("path|label|train/test", ("1", "0", "1"), "'train_test' may say"),
        ("path|label|isTrain", ("1", "0", "1"), "'istrain' may say"),
        ("path|label|is_eval", ("0", "1", "0"), "'is_eval' may say"),
        ("path|label|Held Out", ("0", "1", "0"), "'held_out' may say"),
        ("path|label|TrainTest", ("a", "b", "a"), "'traintest' may say"),
        ("path|label|train?", ("yes", "no", "yes"), r"'train\?' may say"),
        ("path|label|k-fold", ("0", "1", "2"), "'k_fold' may say"),
        ("path|label|type", ("trainset", "testset", "trainset"), "'type' may say"),
        ("path|label|gruop", ("anna", "ben", "anna"), "no column 'gruop' is known; rename it to group"),
        ("path|label|fold", ("0", "1", "2"), r"'fold' holds '0', '1', '2', which are no names of splits"),
        (
            "path|label|split",
            ("train", "hold-out", "train"),
            r"line 3: split='hold-out'; .*'train' 2 times",
        ),
        ("path|label|split", ("train", "", "train"), "line 3: no split, like 1 of 3 rows"),
    ],
)
def test_column_that_may_be_a_split_is_never_ignored(
    tmp_path: Path, header: str, values: tuple[str, ...], message: str
) -> None:
    rows = [(*row[:2], value) for row, value in zip(ROWS, values, strict=True)]
    with pytest.raises(DataError, match=message):
        read_rows(write(tmp_path / "list.csv", header, rows))


def test_two_columns_of_splits_must_agree(tmp_path: Path) -> None:
    rows = [(*row, row[2].upper()) for row in ROWS]
    notes: list[str] = []
    read_rows(write(tmp_path / "list.csv", "path|label|split|subset", rows), notes=notes)
    assert notes[0].startswith("list.csv: columns that are not used: subset; if one names the person")
    with pytest.raises(DataError, match="'split' and 'subset' give different splits"):
        read_rows(write(tmp_path / "list.csv", "path|label|split|subset", [(*row, "test") for row in ROWS]))
    with pytest.raises(DataError, match="'subset' and 'phase' may say"):
        read_rows(write(tmp_path / "list.csv", "path|label|subset|phase", [(*row, "test") for row in ROWS]))
    with pytest.raises(DataError, match="the columns 'label' and 'label' mean the same"):
        read_rows(write(tmp_path / "list.csv", "path|label|Label|split", [(*row, "test") for row in ROWS]))


def test_names_of_splits_are_recognised(tmp_path: Path) -> None:
    names = ["Train", "training ", "VAL", "valid", "validation", "dev", "test", "Testing"]
    path = write(tmp_path / "list.csv", "path|label|split", [(f"{i}.mp4", "a", name) for i, name in enumerate(names)])
    assert [split for *_, split in rows_of(path)] == ["train"] * 2 + ["val"] * 4 + ["test"] * 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("path,label\na.mp4,caf\xe9\n".encode("cp1252"), r"line 2: byte 0xe9 is not UTF-8; save the list in UTF-8"),
        (b"path,label\na.mp4,Putting x, then y\n", r"line 2: 3 fields, but the first line names 2 columns; put quotes"),
        (b'path,label\na.mp4,"wave\nb.mp4,still\n', "not a CSV list"),
        (b'path,label\na.mp4,"two\nlines"\n', "line 3: .*printable characters"),
        (b"name: box\ndata: {kind: clips, path: clips}\n", r"no column path .*\(name: box\)"),
        (b"PK\x03\x04rest", "a zip archive or an Excel workbook"),
        (b"path,label\n\0\0\n", "not a text file in UTF-8"),
        (b"a/1.mp4,wave\na/2.mp4,still\n", r"no column path .*\(a/1\.mp4, wave\)"),
        (b"path,label\na.mp4,wave\na.mp4,still\n", r"a\.mp4: label 'wave' \(list\.csv, line 2\) and 'still'"),
        (b"path,label,split\na.mp4,a,train\n./a.mp4,a,val\n", r"a\.mp4: split 'train' .*line 2\) and 'val' .*line 3\)"),
        (
            b"path,label\na.mp4,Wave\nb.mp4,wave\nc.mp4,wave\n",
            r"'Wave' \(1 clips\) and 'wave' \(2 clips, first li",
        ),
        (b"path,label\n", "no row below its first line"),
        ("path,label\na.mp4,wave\nb.mp4,wa\u200bve\n".encode(), "invisible characters"),
        (b"path,label\na.mp4,1\nb.mp4,01\n", "'1' .* and '01' .* or zeros"),
        (b"path,label\na.mp4,on_table\nb.mp4,on  table\n", "differ only in case, spaces"),
    ],
)
def test_damaged_list_is_refused_with_its_line(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "list.csv").write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_rows(tmp_path / "list.csv")


def test_repeated_and_hidden_files_are_left_out_with_a_note(tmp_path: Path) -> None:
    notes: list[str] = []
    rows = [("a.mp4", "a"), ("a.mp4", "a"), ("x/._a.mp4", "a"), ("__MACOSX/b.mp4", "a"), ("b.mp4", "b")]
    found, _ = read_rows(write(tmp_path / "list.csv", "path|label", rows), notes=notes)
    assert [row.path for row in found] == ["a.mp4", "b.mp4"]
    assert notes == [
        "list.csv: 2 rows name files that are no clips, and are left out: x/._a.mp4, __MACOSX/b.mp4",
        "1 rows repeat a clip and are left out: a.mp4",
    ]


def test_windows_separators_and_decomposed_names_are_found(tmp_path: Path) -> None:
    stored = unicodedata.normalize("NFD", "café")
    for name in (f"{stored}/1.mp4", "b/2.mp4"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(b"film")
    listed = [("caf\xe9/1.mp4", stored), ("b\\2.mp4", "b"), ("/b/2.mp4", "b")]
    found, base = read_rows(write(tmp_path / "list.csv", "path|label", listed))
    assert [row.path for row in found] == [f"{stored}/1.mp4", "b/2.mp4"]
    assert found[0].label == "caf\xe9", "labels are composed (NFC)"
    assert base == tmp_path


def test_list_of_misnamed_split_trains_on_no_validation_clip(tmp_path: Path) -> None:
    rows = [(f"{i}.mp4", "a", "val" if i > 6 else "train") for i in range(10)]
    found, _ = read_rows(write(tmp_path / "list.csv", "path|label|Subset", rows))
    training, validation = split_by_list(found, "training", "Validation")
    assert [len(training), len(validation)] == [7, 3]


def test_kinetics_lists_find_their_films(tmp_path: Path) -> None:
    for name in ("train/abseiling/0wR_000005_000015.mp4", "train/zumba/-x_000010_000020.mp4", "val/zumba/yy.mkv"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"film")
    header = "label|youtube_id|time_start|time_end|split"
    train = [
        ("abseiling", "0wR", "5", "15", "train"),
        ("zumba", "-x", "10", "20", "train"),
        ("zumba", "gone", "1", "11", "train"),
    ]
    write(tmp_path / "train.csv", header, train)
    write(tmp_path / "val.csv", header, [("zumba", "yy", "3", "13", "validate")])
    with pytest.raises(DataError, match="split='validate'"):
        read_rows(tmp_path)
    write(tmp_path / "val.csv", header, [("zumba", "yy", "3", "13", "val")])
    notes: list[str] = []
    found, base = read_rows(tmp_path, notes=notes)
    assert [(row.label, row.split) for row in found] == [("abseiling", "train"), ("zumba", "train"), ("zumba", "val")]
    assert all((base / row.path).is_file() for row in found)
    assert notes == ["train.csv: 1 of 3 clips are absent or have no label, and are left out: gone"]
    with pytest.raises(DataError, match=r"clips are not below .*; give their folder as data\.videos"):
        read_rows(write(tmp_path / "other.csv", header, [("zumba", "gone", "1", "2", "train")]))


def test_absolute_clip_path_of_a_published_list_is_relative_to_the_set(tmp_path: Path) -> None:
    """Copies of UCF101's subset list `/train/Swing/x.avi`, beside a folder `train`."""
    for split in ("train", "val"):
        (tmp_path / split / "Swing").mkdir(parents=True)
        (tmp_path / split / "Swing/x.avi").write_bytes(b"film")
        write(tmp_path / f"{split}.csv", "clip_name|clip_path|label", [("x", f"/{split}/Swing/x.avi", "Swing")])
    assert read_rows(tmp_path)[0] == [
        Row(path="train/Swing/x.avi", label="Swing", split="train"),
        Row(path="val/Swing/x.avi", label="Swing", split="val"),
    ]
