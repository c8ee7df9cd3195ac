"""`classify` shows names and labels as they are, and one bad file does not stop the others."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
from pathlib import Path

import pytest
from support.bundles import make_brightness_bundle
from support.clips import write_clip, write_flat

from streamclf.cli import _main

LABELS = ("[/x] fall [person] :smile: " + "long " * 30, "=cmd \x1b]0;PWNED\x07\n 🚗 cafe\u0301")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("classify")
    write_clip(folder / "film.mp4", frames=40)
    for number, first in enumerate(LABELS):
        spec = make_brightness_bundle(folder / str(number)).path / "spec.json"
        spec.write_text(json.dumps({**json.loads(spec.read_text()), "labels": [first, "bright"]}))
    return folder


def test_a_label_is_shown_as_it_is_and_controls_no_terminal(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number, shown in enumerate((LABELS[0].rstrip(), "=cmd \\x1b]0;PWNED\\x07\\n 🚗 cafe\u0301")):
        assert _main(["classify", str(folder / "film.mp4"), "--model", str(folder / str(number))]) == 0
        output = capsys.readouterr().out
        assert shown in output
        assert not set(output) & {"\x1b", "\x07"}
        assert output.count("\n") == 3, "a long label stays on its line"
        assert _main(["classify", str(folder / "film.mp4"), "--model", str(folder / str(number)), "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["windows"][0]["top"][0][0] == LABELS[number]


def test_files_with_odd_names_are_classified_and_do_not_stop_the_others(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    deep = folder.joinpath(*["d" * 200] * 11)
    deep.mkdir(parents=True)
    assert len(str(deep)) > 2048
    names = [
        os.fsdecode(b"caf\xe9.mp4"), "x\x1b]0;PWNED\x07\n.mp4", "50%25.mp4", str(deep / "film.mp4"), "z.mp4",
    ]  # fmt: skip
    for name in names:
        shutil.copy(folder / "film.mp4", folder / name)
    paths = [str(folder / name) for name in ("a" * 300, *names, "b/" * 3000, "absent.mp4")]
    url = f"file://localhost{folder}/%7A.mp4"
    assert _main(["classify", *paths, url, "--model", str(folder / "0"), "--json"]) == 1
    output, errors = capsys.readouterr()
    files = [json.loads(line)["file"].removeprefix(f"{folder}/") for line in output.splitlines()]
    assert files[:-1] == [
        "caf\\xe9.mp4",
        names[1],
        names[2],
        str(deep / "film.mp4").removeprefix(f"{folder}/"),
        "z.mp4",
    ]
    assert len(files) == 6
    assert ["File name too long" in line for line in errors.splitlines()] == [True, True, False, False]
    assert errors.splitlines()[2].endswith("absent.mp4: no such file; check the path")
    assert errors.splitlines()[3] == "streamclf: 3 of 9 could not be classified"

    assert _main(["classify", str(folder / names[0]), str(folder / names[1]), "--model", str(folder / "0")]) == 0
    output = capsys.readouterr().out
    assert "caf\\xe9.mp4  (" in output
    assert "x\\x1b]0;PWNED\\x07\\n.mp4  (" in output


@pytest.fixture
def films(tmp_path: Path) -> Path:
    """A folder of classes: two films of each label, one that is no film, and files of other kinds."""
    root = tmp_path / "films"
    for name, light in (("dark", 40), ("bright", 210)):
        (root / name / "deep").mkdir(parents=True)
        write_flat(root / name / "2.mov", (light, light, light), width=64, height=48, frames=20)
        shutil.copy(root / name / "2.mov", root / name / "deep" / "=1+1.mov")
    (root / "dark" / "broken.mp4").write_bytes(b"no film at all")
    (root / "dark" / "notes.txt").write_text("no film")
    (root / "dark" / "._2.mov").write_bytes(b"macOS")
    (root / "bright" / "circle").symlink_to(root)
    return root


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_brightness_bundle(tmp_path_factory.mktemp("model") / "bundle").path)


def test_a_folder_is_read_with_its_folders_and_a_bad_film_is_named(
    films: Path, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _main(["classify", str(films), "--model", model, "--json"]) == 1
    output, errors = capsys.readouterr()
    names = [str(Path(json.loads(line)["file"]).relative_to(films)) for line in output.splitlines()]
    assert sorted(names) == ["bright/2.mov", "bright/deep/=1+1.mov", "dark/2.mov", "dark/deep/=1+1.mov"]
    lines = errors.splitlines()
    assert len(lines) == 2
    assert "broken.mp4" in lines[0]
    assert lines[1] == "streamclf: 1 of 5 could not be classified"


def test_a_folder_without_films_is_named_and_other_films_are_classified(
    films: Path, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty" / "inside").mkdir(parents=True)
    (tmp_path / "empty" / "notes.txt").write_text("no film")
    assert _main(["classify", str(tmp_path / "empty"), "--model", model]) == 1
    assert "empty: no video file in it or below" in capsys.readouterr().err
    assert _main(["classify", str(tmp_path / "empty"), str(films / "bright"), "--model", model, "--json"]) == 1
    output, errors = capsys.readouterr()
    assert "empty: no video file" in errors
    assert len(output.splitlines()) == 4  # the link leads to all films but broken.mp4


def test_the_table_has_a_row_for_each_event_and_no_formula(
    films: Path, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(films / "dark" / "deep")
    (films / "dark" / "broken.mp4").unlink()
    monkeypatch.chdir(films / "bright" / "deep")
    table = tmp_path / "events.csv"
    arguments = ["=1+1.mov", "../../dark", "--model", model, "--csv", str(table), "--labels", str(films)]
    assert _main(["classify", *arguments]) == 0
    rows = list(csv.DictReader(io.StringIO(table.read_text())))
    assert [row["file"] for row in rows] == ["'=1+1.mov", "../../dark/2.mov"]
    assert [row["label"] for row in rows] == [row["true_label"] for row in rows] == ["bright", "dark"]
    assert all(0.9 < float(row["probability"]) <= float(row["peak_probability"]) <= 1 for row in rows)
    assert [(row["start_s"], row["windows"], row["model"]) for row in rows] == [("0.000", "7", "brightness@1")] * 2
    assert all(float(row["end_s"]) == 2.0 and 0.4 <= float(row["peak_s"]) <= 1.6 for row in rows)
    assert list(tmp_path.glob(".events*")) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--csv", "FOLDER"], "must end in .csv"),
        (["--csv", "FOLDER/x.csv"], "is a directory"),
        (["--csv", "FOLDER/absent/x.csv"], "does not exist"),
        (["--labels", "FOLDER/absent.csv"], "cannot be read"),
        (["--labels", "FOLDER/x.csv"], "it names none of the films"),
        (["--labels", "FOLDER/cats.csv"], "the model does not know its labels (cat)"),
        (["--labels", "FOLDER/columns.csv"], "must name the columns path and label"),
        (["--labels", "FOLDER/two.csv"], "two.csv, line 3: ../films/dark/2.mov has the labels 'dark' and 'bright'"),
    ],
)
def test_an_output_or_a_list_that_cannot_be_used_is_refused_before_anything_is_read(
    options: list[str], message: str, films: Path, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "folder"
    (folder / "x.csv").mkdir(parents=True)
    (folder / "columns.csv").write_text("path,animal\nx.mp4,cat\n")
    (folder / "cats.csv").write_text("\ufeffpath;label\n../films/dark/2.mov;cat\n", encoding="utf-8")
    (folder / "two.csv").write_text("path,label\n../films/dark/2.mov,dark\n../films/dark/2.mov,bright\n")
    arguments = [option.replace("FOLDER", str(folder)) for option in options]
    assert _main(["classify", str(films / "dark"), "--model", model, *arguments]) == 2
    output, errors = capsys.readouterr()
    assert not output
    assert message in errors
    assert len(errors.splitlines()) == 1
