"""The evaluate command prints figures and writes a report with charts and films."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from training.__main__ import app


def test_command_prints_json_and_writes_a_report(run: Path, films: Path, tmp_path: Path) -> None:
    arguments = ["evaluate", str(run), "--data", str(films), "--split", "val"]
    result = CliRunner().invoke(app, [*arguments, "--json"])
    assert result.exit_code == 0, result.output
    figures = json.loads(result.stdout)
    assert {"top1", "top5", "balanced_accuracy", "clips"} <= set(figures)
    assert (figures["clips"], figures["split"]) == (6, "val")
    printed = CliRunner().invoke(app, [*arguments, "-o", str(tmp_path / "report")])
    assert "class  clips  recall" in printed.stdout
    page = (tmp_path / "report" / "index.html").read_text()
    assert page.count("<figure") == 6
    for name in ("confusion.png", "curves.png"):
        assert (tmp_path / "report" / name).read_bytes()[:4] == b"\x89PNG"
    gif = (tmp_path / "report" / "clips" / "0000.gif").read_bytes()
    assert gif[:6] == b"GIF89a"
    assert gif.count(b"\x21\xf9\x04") == 12, "one image for each frame that the model received"


def test_without_data_the_validation_clips_are_measured(run: Path, tmp_path: Path) -> None:
    metrics = json.loads((run / "metrics.json").read_text())
    result = CliRunner().invoke(app, ["evaluate", str(run), "--json", "-o", str(tmp_path / "report")])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["confusion"] == metrics["confusion"]
    assert "<h1>ways@1 on validation clips</h1>" in (tmp_path / "report" / "index.html").read_text()
    assert (tmp_path / "report" / "curves.png").is_file()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--data", "none.csv"], 1, "none.csv: no such file or folder"),
        (["--split", "val"], 2, "--split and --windows go with --data"),
        (["--data", "x.csv", "--backend", "magic"], 2, "--backend magic: one of"),
    ],
)
def test_wrong_options_end_with_one_line(run: Path, arguments: list[str], code: int, message: str) -> None:
    result = CliRunner().invoke(app, ["evaluate", str(run), *arguments])
    assert result.exit_code == code
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
