"""`classify` shows names and labels as they are, and one bad file does not stop the others."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
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


@pytest.mark.parametrize("frames", [40, 9])
def test_the_output_says_how_a_film_was_decoded(
    folder: Path, tmp_path: Path, frames: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second film is shorter than a window."""
    film = write_clip(tmp_path / "film.mp4", frames=frames)
    other = write_clip(tmp_path / "film.mkv", frames=frames, codec="mpeg2video")
    command = ["classify", str(film), str(other), "--model", str(folder / "0")]
    for decode, said in (("exact", [None, None]), ("fast", ["fast", "exactly"]), ("auto", ["fast", "exactly"])):
        assert _main([*command, "--decode", decode]) == 0
        headers = [line for line in capsys.readouterr().out.splitlines() if line.startswith(str(tmp_path))]
        assert [line.partition(", decoded ")[2].rstrip(")") or None for line in headers] == said
        assert _main([*command, "--decode", decode, "--json"]) == 0
        found = [json.loads(line).get("decode") for line in capsys.readouterr().out.splitlines()]
        assert found == ["fast" if word == "fast" else None for word in said]


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


def test_an_empty_path_is_refused_and_not_taken_for_the_working_directory(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    assert _main(["classify", "", "--model", "0"]) == 2
    assert "an empty path; give a file or a folder" in capsys.readouterr().err


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
        (["--report", "FOLDER"], "must end in .html"),
        (["--report", "FOLDER/absent/x.html"], "does not exist"),
        (["--explain"], "add -o FILE.mp4 or --report FILE.html"),
        (["--explain", "--report", "FOLDER/r.html", "TINY"], "have 8x8 pixels, at least 12x12"),
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
    if "TINY" in options:
        model = str(make_brightness_bundle(tmp_path / "tiny", size=8).path)
    arguments = [option.replace("FOLDER", str(folder)) for option in options if option != "TINY"]
    assert _main(["classify", str(films / "dark"), "--model", model, *arguments]) == 2
    output, errors = capsys.readouterr()
    assert not output
    assert message in errors
    assert len(errors.splitlines()) == 1


@pytest.fixture(scope="module")
def corner_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model that reads the top left 16 x 16 of 64 x 64 pixels of the middle of a film."""
    bundle = make_brightness_bundle(tmp_path_factory.mktemp("corner") / "bundle", size=64, corner=16, resize="crop")
    return str(bundle.path)


def write_corner_film(path: Path) -> Path:
    """Write a grey film of 2:1, in which the part that the model reads is bright."""
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("png", rate=10)
        stream.width, stream.height, stream.pix_fmt = 640, 320, "rgb24"
        image = np.full((320, 640, 3), 60, np.uint8)
        image[:80, 160:240] = 140
        for number in range(20):
            frame = av.VideoFrame.from_ndarray(image, "rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 10)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def test_heat_lies_where_the_model_reads_in_the_film_and_in_the_report(
    corner_model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    film = write_corner_film(tmp_path / "film.mov")
    outputs = {name: tmp_path / f"{name}.mp4" for name in ("plain", "hot")}
    report = tmp_path / "report.html"
    base = ["classify", str(film), "--model", corner_model, "--precision", "fp32", "-o"]
    assert _main([*base, str(outputs["plain"])]) == 0
    capsys.readouterr()
    assert _main([*base, str(outputs["hot"]), "--explain", "--explain-windows", "3", "--report", str(report)]) == 0
    errors = capsys.readouterr().err
    assert "classifies up to 3 windows of the film 64 times each, with one part hidden: at most about" in errors
    images = {}
    for name, path in outputs.items():
        with av.open(str(path)) as container:
            images[name] = [frame.to_ndarray(format="rgb24").astype(int) for frame in container.decode(video=0)]
    assert len(images["hot"]) == len(images["plain"]) == 20
    change = np.abs(images["hot"][10] - images["plain"][10]).max(axis=2)
    hot = change[70:80, 170:230]  # below the text at the top
    assert hot.mean() > 20
    change[:120, 120:280] = 0
    change[:70] = 0  # the text
    assert change.mean() < 2
    page = report.read_text()
    assert "Explained windows" in page
    assert page.count("hiding one part lowers p by up to 0.") == 3
    assert "It does not show where an object is" in page


def test_a_folder_of_links_to_films_gives_labels(
    films: Path, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A film has the label of the folder or of the row that names its link, wherever the link leads."""
    for label in ("dark", "bright"):
        (tmp_path / "set" / "train" / label).mkdir(parents=True)
        (tmp_path / "set" / "train" / label / "1.mov").symlink_to(films / label / "2.mov")
    (tmp_path / "set" / "list.csv").write_text("file,class\ntrain/dark/1.mov,dark\ntrain/bright/1.mov,bright\n")
    for given in ("set", "set/list.csv"):
        table = tmp_path / "events.csv"
        arguments = ["--labels", str(tmp_path / given), "--csv", str(table), "--model", model]
        assert _main(["classify", str(tmp_path / "set"), *arguments]) == 0
        rows = list(csv.DictReader(io.StringIO(table.read_text())))
        assert sorted((row["label"], row["true_label"]) for row in rows) == [("bright", "bright"), ("dark", "dark")]
        last_line = capsys.readouterr().err.splitlines()[-1]
        assert last_line == f"streamclf classify: 2 films classified; written: {table}"


def test_a_report_of_films_that_cannot_be_read_names_them(
    films: Path, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = tmp_path / "report.html"
    assert _main(["classify", str(films / "dark" / "broken.mp4"), "--model", model, "--report", str(report)]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert "No film could be classified." in report.read_text()
    assert "broken.mp4" in report.read_text()


def test_the_report_has_the_figures_of_a_folder_of_classes(
    films: Path, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (films / "bright" / "circle").unlink()
    shutil.copy(films / "bright" / "2.mov", films / "dark" / "wrong.mov")
    report = tmp_path / "report.html"
    assert _main(["classify", str(films), "--model", model, "--labels", str(films), "--report", str(report)]) == 1
    page = report.read_text()
    assert "80.0%<small>4 of 5" in page
    assert "83.3%<small>mean recall of 2 labels" in page
    assert page.count("\u2717 true label: dark") == 1
    assert "1 of 6 could not be classified" in capsys.readouterr().err
