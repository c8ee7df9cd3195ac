"""An archive is classified once, film by film; a run that ended early, or films that are added, are completed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from support.bundles import make_brightness_bundle
from support.clips import write_clip

from engines.errors import EngineError
from streamclf.api.model import open_model
from streamclf.archive.films import Film
from streamclf.archive.pool import FilmPool
from streamclf.archive.worker import ArchiveJob, FilmRows
from streamclf.cli import _main


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a model, and `films` with four films and one that cannot be read."""
    folder = tmp_path_factory.mktemp("archive")
    make_brightness_bundle(folder / "model")
    (folder / "films" / "deep").mkdir(parents=True)
    for number in range(3):
        write_clip(folder / "films" / f"{number}.mp4", frames=30 + 10 * number)
    write_clip(folder / "films" / "deep" / "3.mp4", frames=30)
    (folder / "films" / "bad.mp4").write_bytes(b"no film")
    return folder


def classify(archive: Path, output: Path, *options: str) -> int:
    given = [str(archive / "films"), "-o", str(output), "--model", str(archive / "model"), "--workers", "2", *options]
    return _main(["classify", *given])


def rows(path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    return found


def test_the_table_has_the_windows_of_every_film_and_the_error_of_the_bad_one(
    archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert classify(archive, tmp_path / "r.parquet") == 1
    table = rows(tmp_path / "r.parquet")
    with open_model(archive / "model") as model:
        for path in sorted((archive / "films").rglob("[0-9].mp4")):
            expected = list(model.classify(path))
            found = [row for row in table if row["file"] == str(path)]
            assert [row["start_s"] for row in found] == pytest.approx([window.start_s for window in expected])
            assert [row["label"] for row in found] == [window.label for window in expected]
            for row, window in zip(found, expected, strict=True):
                assert row["probabilities"] == pytest.approx(
                    [window.probabilities[name] for name in ("dark", "bright")]
                )
    (bad,) = [row for row in table if row["error"]]
    assert bad["file"] == str(archive / "films" / "bad.mp4")
    assert bad["error"] in capsys.readouterr().err
    assert not (tmp_path / "r.parquet.parts").exists()


def test_a_later_run_adds_what_is_new_and_tries_what_failed_again(
    archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    films = tmp_path / "films"
    films.mkdir()
    write_clip(films / "a.mp4", frames=30)
    (films / "b.mp4").write_bytes(b"no film")
    (tmp_path / "model").symlink_to(archive / "model")
    assert classify(tmp_path, tmp_path / "r.parquet") == 1
    assert classify(tmp_path, tmp_path / "r.parquet") == 1
    assert "has 1 of 2 films already" in capsys.readouterr().err
    assert [row["file"] for row in rows(tmp_path / "r.parquet") if row["error"]] == [str(films / "b.mp4")]
    write_clip(films / "b.mp4", frames=30)
    write_clip(films / "c.mp4", frames=30)
    assert classify(tmp_path, tmp_path / "r.parquet") == 0
    table = rows(tmp_path / "r.parquet")
    assert {row["file"] for row in table} == {str(films / name) for name in ("a.mp4", "b.mp4", "c.mp4")}
    assert not [row for row in table if row["error"]]
    assert len(table) == 3 * len([row for row in table if row["file"] == str(films / "a.mp4")])


def test_a_run_that_is_killed_is_completed(archive: Path, tmp_path: Path) -> None:
    code = (
        "import streamclf.commands.classify_archive as command; command.FLUSH_S = 0.0\n"
        "from streamclf.archive.results import ArchiveResults; flush = ArchiveResults.flush\n"
        "def flush_and_wait(self):\n"
        "    flush(self)\n"
        "    if len(self.done) == 2: print('two', flush=True); import time; time.sleep(60)\n"
        "ArchiveResults.flush = flush_and_wait\n"
        "from streamclf.cli import main; main()\n"
    )
    output = tmp_path / "r.parquet"
    arguments = [str(archive / "films"), "-o", str(output), "--model", str(archive / "model"), "--workers", "1"]
    with subprocess.Popen([sys.executable, "-c", code, "classify", *arguments], stdout=subprocess.PIPE) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == b"two\n"
        running.kill()
    assert len(list((tmp_path / "r.parquet.parts").glob("*.parquet"))) == 2
    assert not output.exists()
    assert classify(archive, output) == 1
    once = tmp_path / "once.parquet"
    assert classify(archive, once) == 1
    key = ("file", "start_s")
    assert sorted(rows(output), key=lambda row: [str(row[k]) for k in key]) == sorted(
        rows(once), key=lambda row: [str(row[k]) for k in key]
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--json"], "--json: not with -o"),
        (["--model", "gestures"], "holds the results of one model"),
        (["--hop", "99"], "--hop 99: at most 4"),
        (["--fleet", "127.0.0.1:1", "--workers", "0"], "127.0.0.1:1: no Ray cluster"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    if "--fleet" in options:
        pytest.importorskip("ray", reason="Ray is not installed")
    assert classify(archive, tmp_path / "r.parquet", *options) != 0
    assert message in capsys.readouterr().err
    assert not (tmp_path / "r.parquet").exists()


def test_workers_and_fleet_need_a_table(archive: Path, capsys: pytest.CaptureFixture[str]) -> None:
    film = str(archive / "films" / "0.mp4")
    assert _main(["classify", film, "--workers", "2"]) == 2
    assert "--workers: only with -o RESULTS.parquet" in capsys.readouterr().err


def test_a_film_during_which_the_process_ends_fails_and_the_others_are_classified(archive: Path) -> None:
    films = [Film(str(archive / "films" / f"{number}.mp4"), 1) for number in range(3)]
    pool = FilmPool(ArchiveJob(bundle=archive / "model"), workers=1)
    (worker,) = pool._workers
    try:
        while not worker.is_ready:
            worker.receive()
        assert worker._process.pid is not None
        os.kill(worker._process.pid, signal.SIGSTOP)  # it does not begin the film before it is killed
        worker.start(films[0].name)
        os.kill(worker._process.pid, signal.SIGKILL)
        results = {Path(each.film).name: each for each in pool.classify(films[1:])} | {}
    finally:
        pool.close()
    assert results.keys() >= {"0.mp4"}
    assert results["0.mp4"].error is not None
    assert "ended with SIGKILL" in results["0.mp4"].error


def test_processes_end_when_the_command_is_killed(archive: Path) -> None:
    code = (
        "import sys, os; from pathlib import Path\n"
        "from streamclf.archive.pool import FilmPool; from streamclf.archive.worker import ArchiveJob\n"
        "if __name__ == '__main__':\n"
        "    pool = FilmPool(ArchiveJob(bundle=Path(sys.argv[1])), workers=1)\n"
        "    pool._workers[0].receive(); os.kill(os.getpid(), 9)\n"
    )
    began_s = time.monotonic()
    killed = subprocess.run(
        [sys.executable, "-c", code, str(archive / "model")], stdout=subprocess.PIPE, timeout=60, check=False
    )
    assert killed.returncode == -9  # the pipe of stdout ends only when the last process has ended
    assert time.monotonic() - began_s < 60


def test_a_film_without_a_result_has_a_row(tmp_path: Path) -> None:
    from streamclf.archive.results import ArchiveResults

    results = ArchiveResults(tmp_path / "r.parquet", identity={"model": "m"}, labels=("a", "b"))
    results.add(FilmRows.failed("x.mp4", "x.mp4: bad"))
    results.finish()
    (row,) = rows(tmp_path / "r.parquet")
    assert (row["file"], row["error"], row["label"]) == ("x.mp4", "x.mp4: bad", None)


@pytest.mark.skipif(sys.platform == "darwin", reason="names of files are UTF-8 there")
def test_a_film_whose_name_is_no_utf8_is_classified_once(archive: Path, tmp_path: Path) -> None:
    (tmp_path / "films").mkdir()
    (tmp_path / "model").symlink_to(archive / "model")
    write_clip(tmp_path / "film.mp4", frames=30)
    os.rename(tmp_path / "film.mp4", os.fsencode(tmp_path / "films") + b"/caf\xe9.mp4")  # noqa: PTH104
    assert classify(tmp_path, tmp_path / "r.parquet") == 0
    before = rows(tmp_path / "r.parquet")
    assert {row["file"] for row in before} == {f"{tmp_path}/films/caf\\xe9.mp4"}
    assert classify(tmp_path, tmp_path / "r.parquet") == 0
    assert rows(tmp_path / "r.parquet") == before


def test_a_pipe_is_no_place_for_results(archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(tmp_path / "r.parquet")
    assert classify(archive, tmp_path / "r.parquet") == 2
    assert "is not a regular file" in capsys.readouterr().err


def test_a_model_that_is_replaced_during_a_run_is_refused(archive: Path) -> None:
    pool = FilmPool(ArchiveJob(bundle=archive / "model", model_sha256="0" * 64), workers=1)
    with closing(pool), pytest.raises(EngineError, match="another model was written there during this run"):
        list(pool.classify([Film(str(archive / "films" / "0.mp4"), 0)]))
