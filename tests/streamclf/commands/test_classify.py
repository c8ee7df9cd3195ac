"""`classify` shows names and labels as they are, and one bad file does not stop the others."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from support.bundles import make_brightness_bundle
from support.clips import write_clip

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
    assert ["File name too long" in line for line in errors.splitlines()] == [True, True, False]
    assert errors.splitlines()[2].endswith("absent.mp4: no such file; check the path")

    assert _main(["classify", str(folder / names[0]), str(folder / names[1]), "--model", str(folder / "0")]) == 0
    output = capsys.readouterr().out
    assert "caf\\xe9.mp4  (" in output
    assert "x\\x1b]0;PWNED\\x07\\n.mp4  (" in output


def test_the_times_of_the_table_do_not_overlap() -> None:
    from types import SimpleNamespace

    from streamclf.commands.classify import _times_of

    runs = [
        [SimpleNamespace(start_s=0.5 * i, end_s=0.5 * i + 2) for i in numbers] for numbers in (range(3), range(3, 9))
    ]
    assert _times_of(runs) == [(0.0, 2.25), (2.25, 6.0)]  # type: ignore[arg-type]
    apart = [[SimpleNamespace(start_s=0.0, end_s=2.0)], [SimpleNamespace(start_s=5.0, end_s=7.0)]]
    assert _times_of(apart) == [(0.0, 2.0), (5.0, 7.0)]  # type: ignore[arg-type]
