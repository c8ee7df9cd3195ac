"""Mistakes of users: each is reported in one line with value and remedy, with the right exit code and no traceback."""

import json
import re
from pathlib import Path

import pytest
from support.bundles import make_brightness_bundle
from support.clips import write_audio, write_clip, write_flat
from support.service import Service

from streamclf.cli import _main


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Change to a working directory with a model in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STREAMCLF_CACHE", str(tmp_path / "cache"))
    make_brightness_bundle(tmp_path / "brightness")
    return tmp_path


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    """Return stderr after checking that it is one line of the project's own and stdout is empty."""
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("streamclf: ")
    assert err.count("\n") == 1
    return err


def classify(*arguments: str) -> int:
    return _main(["classify", *arguments, "--model", "brightness"])


def test_a_file_that_is_no_video_is_reported(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "text.mp4").write_text("this is no film\n" * 200)
    (here / "empty.mp4").write_bytes(b"")
    write_audio(here / "sound.mp4")
    for name, message in (
        ("absent.mp4", "absent.mp4: no such file; check the path"),
        ("text.mp4", "text.mp4: "),
        ("empty.mp4", "empty.mp4: an empty file (0 bytes)"),
        ("sound.mp4", "sound.mp4: holds audio, no video"),
    ):
        assert classify(name, "--json") == 1
        assert message in one_line(capsys)


def test_a_clip_shorter_than_a_window_is_classified_and_marked(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_clip(here / "short.mp4", frames=10)
    assert classify("short.mp4", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert [(window["start_s"], window["end_s"]) for window in found["windows"]] == [(0.0, 0.4)]
    assert found["short_clip"] == {"fill": "hold", "clip_s": 0.4, "window_s": 0.8}
    assert classify("short.mp4") == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "a clip of 0.4 s, shorter than a window of 0.8 s: its last frame is held" in shown


def test_a_film_cut_short_is_classified_with_a_warning(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = write_clip(here / "whole.mkv", frames=100).read_bytes()
    (here / "cut.mkv").write_bytes(whole[: len(whole) // 2])
    assert classify("whole.mkv", "--json") == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "warning" not in json.loads(out)
    assert classify("cut.mkv", "--json") == 0
    out, err = capsys.readouterr()
    warning = json.loads(out)["warning"]
    assert re.fullmatch(r"cut\.mkv: cut short: it declares 4\.0 s, [12]\.\d s of it could be read; copy .*", warning)
    assert err == f"streamclf: warning: {warning}\n"


def test_a_bad_file_does_not_stop_the_others(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_clip(here / "a.mp4", frames=50)
    assert classify("a.mp4", "absent.mp4", "a.mp4", "--json") == 1
    out, err = capsys.readouterr()
    assert [json.loads(line)["file"] for line in out.splitlines()] == ["a.mp4", "a.mp4"]
    assert err.splitlines() == [
        "streamclf: absent.mp4: no such file; check the path",
        "streamclf: 1 of 3 could not be classified",
    ]


def test_a_film_of_an_unknown_codec_does_not_stop_the_others(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_clip(here / "a.mp4", frames=50).read_bytes()
    (here / "unknown.mp4").write_bytes(data.replace(b"avc1", b"zzzz").replace(b"avcC", b"zzzC"))
    assert classify("unknown.mp4", "a.mp4", "--json") == 1
    out, err = capsys.readouterr()
    assert [json.loads(line)["file"] for line in out.splitlines()] == ["a.mp4"]
    assert err.startswith("streamclf: unknown.mp4: FFmpeg has no decoder for the codec of its video")
    assert err.splitlines()[1:] == ["streamclf: 1 of 2 could not be classified"]


def test_the_smallest_frames_are_classified(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """tests/streamclf/sources/test_file.py decodes the largest ones, too."""
    write_flat(here / "flat.mp4", (250, 250, 250), width=2, height=2, frames=10)  # 1 s; a window takes 0.8 s
    assert classify("flat.mp4", "--json") == 0
    (line,) = capsys.readouterr().out.splitlines()
    windows = json.loads(line)["windows"]
    assert windows
    assert all(window["top"][0][0] == "bright" and window["top"][0][1] > 0.99 for window in windows)


def test_json_output_is_one_object_per_file(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_clip(here / "a.mp4", frames=51)
    assert classify("a.mp4", "--json") == 0
    out, err = capsys.readouterr()
    assert err == ""
    (line,) = out.splitlines()
    answer = json.loads(line)
    assert (answer["file"], answer["model"]) == ("a.mp4", "brightness@1")
    assert [round(window["start_s"], 1) for window in answer["windows"]] == [0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.2]
    for window in answer["windows"]:
        assert sum(p for _, p in window["top"]) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a.mp4", "-o", "a.avi"], "-o a.avi: must end in .mp4 or .gif"),
        (["a.mp4", "-o", "a.mp4"], "-o a.mp4: is the input file"),
        (["a.mp4", "b.mp4", "-o", "c.mp4"], "-o c.mp4: holds one film, and there are 2 files"),
        (["a.mp4", "-o", "absent/c.mp4"], "does not exist; create it first"),
        (["a.mp4", "--hop", "9"], "--hop 9: at most 4"),
        (["a.mp4", "--backend", "magic"], "Invalid value for '--backend': 'magic' is not one of"),
        (["a.mp4", "--surprise"], "No such option: --surprise"),
    ],
)
def test_wrong_arguments_are_reported(
    here: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    write_clip(here / "a.mp4", frames=26)
    assert classify(*arguments) == 2
    assert message in one_line(capsys)


@pytest.mark.parametrize("suffix", ["mp4", "gif"])
def test_a_film_that_fails_half_way_leaves_no_output_file(
    here: Path, capsys: pytest.CaptureFixture[str], suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from streamclf.errors import SourceError

    write_clip(here / "a.mp4", frames=50)

    def breaks(*_: object) -> None:
        raise SourceError("a.mp4: broke half way")

    monkeypatch.setattr("streamclf.commands.annotate.draw", breaks)
    before = set(here.iterdir())
    assert classify("a.mp4", "-o", f"out.{suffix}") == 1
    assert "broke half way" in one_line(capsys)
    assert {path for path in here.iterdir() if path.name != "cache"} == {p for p in before if p.name != "cache"}


def test_a_modified_bundle_is_refused(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_clip(here / "a.mp4", frames=50)
    with (here / "brightness" / "head.onnx").open("ab") as file:
        file.write(b"\0")
    assert classify("a.mp4") == 1
    assert "head.onnx: sha256 is" in one_line(capsys)


def test_check_reports_whether_a_configuration_is_valid(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_clip(here / "a.mp4", frames=26)
    (here / "good.yaml").write_text("model: brightness\nstreams: {film: {url: a.mp4}}")
    assert _main(["check", "good.yaml"]) == 0
    assert capsys.readouterr().out.startswith("good.yaml: ok: 1 stream(s), brightness@1")
    for text, message in (
        ("model: brightness\nstreams: {film: {url: a.mp4, hops: 2}}", "streams.film.hops: unknown key"),
        ("model: brightness\nstreams: {film: {url: b.mp4}}", "b.mp4: no such file"),
        ("model: brighness\nstreams: {film: {url: a.mp4}}", "model=brighness: no such directory"),
    ):
        (here / "bad.yaml").write_text(text)
        assert _main(["check", "bad.yaml"]) == 2
        assert message in one_line(capsys)
        assert _main(["run", "bad.yaml"]) == 2
        assert message in one_line(capsys)
    assert _main(["check", "absent.yaml"]) == 2
    assert "absent.yaml: cannot be read" in one_line(capsys)


def test_an_absent_camera_is_reported(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _main(["demo", "98", "--headless", "--seconds", "1"]) == 1
    assert "camera 98" in one_line(capsys)


def test_without_a_command_the_help_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert _main([]) == 2
    assert "Commands:" in capsys.readouterr().out


def test_the_real_program_reports_an_error_in_one_line(tmp_path: Path) -> None:
    with Service("check", "absent.yaml", cwd=tmp_path) as program:
        assert program.wait() == 2
    assert program.lines == [
        "streamclf: absent.yaml: cannot be read (No such file or directory); give the path of a YAML file"
    ]


def test_errors_name_the_help_of_the_command(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (
        ["classify", "a.mp4", "-o", "a.avi"],
        ["classify", "a.mp4", "--modle", "gestures"],
        ["demo", ""],
        ["status", "127.0.0.1:5555"],
        ["log", "-o", "events.txt"],
        ["query", "absent.db"],
        ["status", "--timeout", "-1"],
        ["webhook", "tcp://127.0.0.1:1", "gopher://x"],
    ):
        assert _main(arguments) == 2
        assert re.search(rf"[.?] See: streamclf {arguments[0]} --help$", one_line(capsys).rstrip())


def test_a_wrong_configuration_is_a_json_line_where_the_log_is_json(tmp_path: Path) -> None:
    (tmp_path / "wrong.yaml").write_text("streams: {door: {url: 'rtsp://me:Hidden9@10.0.0.5/1', hopp: 1}}\n")
    for name in ("wrong.yaml", "absent.yaml"):
        with Service("run", name, "--log-format", "json", cwd=tmp_path) as service:
            assert service.process.wait(60) == 2
            line = service.wait_for_line(f"{name}: ").string
        assert len(service.lines) == 1
        found = json.loads(line)
        assert (found["level"], found["process"]) == ("error", "service")
        assert found["message"].startswith(name)
        assert "Hidden9" not in line
