"""Progress is a bar in a terminal, and otherwise a line every ten seconds."""

from __future__ import annotations

import io
import time
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from streamclf.commands.film_progress import FilmProgress


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Any:
    now = SimpleNamespace(s=1000.0)
    monkeypatch.setattr(time, "monotonic", lambda: now.s)
    return now


def read(progress: FilmProgress, position: int) -> None:
    progress.watch(SimpleNamespace(read_bytes=position), None)  # type: ignore[arg-type]


def test_a_line_every_ten_seconds_names_the_film_the_share_and_the_time_left(
    clock: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    with FilmProgress([1000, 3000], passes=2, console=Console(file=io.StringIO())) as progress:
        progress.begin("first.mp4")
        clock.s += 9.9
        read(progress, 500)
        assert capsys.readouterr().err == ""
        clock.s += 0.1
        read(progress, 1000)
        assert capsys.readouterr().err == "streamclf: file 1 of 2: first.mp4, 12%, 1 min 10 s left\n"
        progress.begin_pass("drawing")
        clock.s += 10
        read(progress, 1000)
        assert capsys.readouterr().err == "streamclf: file 1 of 2: first.mp4 (drawing), 25%, 1 min left\n"
        progress.begin("x\x1b[31m" + 60 * "y")
        clock.s += 20
        read(progress, 9999)  # a damaged file may give any position
        line = capsys.readouterr().err
        assert "file 2 of 2: …y" in line
        assert "62%, 24 s left" in line
        assert progress.share == 0.625


def test_a_terminal_gets_a_bar_that_leaves_nothing_behind(clock: Any) -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=100, _environ={"TERM": "xterm"})
    with FilmProgress([1000], passes=1, console=console) as progress:
        progress.begin("[red]film.mp4")
        clock.s += 1
        read(progress, 250)
        with progress.paused():
            shown = len(screen.getvalue())
    assert "[red]film.mp4" in screen.getvalue()
    assert "25%" in screen.getvalue()
    assert "3 s left" in screen.getvalue()
    assert shown
    assert screen.getvalue().endswith("\x1b[2K") or "\x1b[2K" in screen.getvalue()[shown - 40 :]
