"""`streamclf init`: what it writes can be checked and run, holds no password, and replaces nothing unasked."""

from __future__ import annotations

import builtins
import io
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.clips import film, write_flat
from support.rtsp_server import RtspServer

from streamclf.cli import _main
from streamclf.commands.init import command, questions
from streamclf.commands.init.command import Options, run_init
from streamclf.config.service import load_config
from streamclf.runtime.interrupts import Interrupted

PASSWORD = "pass#word '1'"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty directory, on a machine without cameras."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command, "list_cameras", list)
    for name in [name for name in os.environ if name.startswith(("DOOR", "YARD", "MQTT", "STREAMCLF_MQTT"))]:
        monkeypatch.delenv(name)
    return tmp_path


@pytest.fixture(scope="module")
def server() -> Iterator[RtspServer]:
    """Serve one camera with a password, whose picture is large, and one whose picture is small."""
    films = {"large": film(frames=20, width=1280, height=720), "small": film(frames=50)}
    with RtspServer(films, auth=("viewer", PASSWORD)) as running:
        yield running


def init(*arguments: str) -> int:
    return _main(["init", *arguments])


def answers(monkeypatch: pytest.MonkeyPatch, *lines: str) -> list[str]:
    """Answer the questions with `lines` on a terminal; return the list of questions asked, which grows."""
    asked: list[str] = []
    waiting = iter(lines)

    def reply(question: str = "") -> str:
        asked.append(question)
        try:
            return next(waiting)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr(builtins, "input", reply)
    for module in (questions, command):
        monkeypatch.setattr(module, "has_terminal", lambda: True)
    return asked


def test_cameras_are_tried_and_written_without_passwords(
    server: RtspServer, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    large, small = server.url("large"), server.url("small")
    assert (
        init("cameras.yaml", "--yes", "--url", f"door={large}", "--url", small, "--mqtt", "me:geheim9@127.0.0.1:1") == 0
    )
    out = capsys.readouterr().out
    assert re.search(r"door +h264, 1280x720, 25 frames/s", out)
    assert "note: door: the picture has 33 times the pixels of the model's (192x144); the camera's second stream" in out
    assert "mqtt  no connection now: 127.0.0.1:1: connection refused" in out
    assert "streamclf check --connect cameras.yaml\n  streamclf run cameras.yaml\n" in out
    text = (here / "cameras.yaml").read_text()
    for secret in ("pass", "geheim9"):
        assert secret not in text.lower().replace("_password", "").replace("passwords", "")
        assert secret not in out.lower().replace("_password", "")
    assert "# h264, 1280x720, 25 frames/s" in text
    assert (here / "cameras.env").stat().st_mode & 0o777 == 0o600
    config = load_config(here / "cameras.yaml", {})
    assert {name: stream.url for name, stream in config.streams.items()} == {"door": large, "camera1": small}
    assert config.outlets.mqtt is not None
    assert "normal" not in config.actions
    assert {action.min_s for action in config.actions.values()} == {0.6}
    assert [path.name for path in sorted(here.iterdir())] == ["cameras.env", "cameras.yaml"]


def test_the_file_passes_check_and_a_running_service_gets_other_ports(
    server: RtspServer, here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        monkeypatch.setattr(command, "FIRST_PORT", taken.getsockname()[1])
        assert init("cameras.yaml", "--yes", "--url", server.url("small")) == 0
        capsys.readouterr()
        assert _main(["check", "--connect", "cameras.yaml"]) == 0
    assert "streams.camera1: live (h264, 320x180" in capsys.readouterr().out


def test_a_failing_camera_becomes_a_comment_and_is_kept_on_request(
    server: RtspServer, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    urls = ("--url", f"door={server.url('small')}", "--url", "yard=rtsp://me:hunter22@127.0.0.1:1/x")
    assert init("a.yaml", "--yes", *urls) == 1
    out = capsys.readouterr().out
    assert "yard  failed: rtsp://***@127.0.0.1:1/x: connection refused" in out
    assert "left out: yard" in out
    assert '# yard: {url: "rtsp://me:${YARD_PASSWORD}@127.0.0.1:1/x"}' in (here / "a.yaml").read_text()
    assert list(load_config(here / "a.yaml", {}).streams) == ["door"]
    assert init("b.yaml", "--yes", "--keep-failing", *urls) == 0
    assert list(load_config(here / "b.yaml", {}).streams) == ["door", "yard"]
    assert "hunter22" not in out + capsys.readouterr().out + (here / "b.yaml").read_text()


def test_nothing_is_written_if_every_camera_fails(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert init("--yes", "--url", "rtsp://127.0.0.1:1/x") == 1
    assert "no camera could be opened, so nothing was written; --keep-failing" in capsys.readouterr().out
    assert not list(here.iterdir())


def test_four_questions_and_the_answers_are_used(
    server: RtspServer, here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    small = server.url("small")
    asked = answers(monkeypatch, f"door={small} yard={small}", "", "homeassistant.invalid", "no")
    assert init() == 0
    assert len(asked) == 4
    config = load_config(here / "cameras.yaml", {})
    assert list(config.streams) == ["door", "yard"]
    assert config.outlets.mqtt.broker == "mqtt://homeassistant.invalid"  # type: ignore[union-attr]
    assert "no such host" in capsys.readouterr().out


def test_options_answer_questions_and_wrong_answers_are_asked_again(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = "door=rtsp://me:Hidden9@h/1 yard=rtsp://me:Hid#den9@h/1"
    asked = answers(monkeypatch, "", wrong, "door=rtsp://me:Hidden8@h/1", "maybe", "n")
    assert init("--no-try", "--mqtt", "none") == 0
    assert len(asked) == 5
    out = capsys.readouterr().out
    assert "  give the index of a camera like 0, a URL like rtsp://HOST/PATH, or a video file" in out
    assert "a sign in the user name or password is not encoded" in out
    assert "  answer yes or no" in out
    assert "den9" not in out
    assert (here / "cameras.env").read_text().count("PASSWORD") == 1
    assert "Hidden8" in (here / "cameras.env").read_text()


def test_the_end_of_the_input_writes_nothing(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    answers(monkeypatch, "rtsp://h/1")
    assert init() == 2
    assert capsys.readouterr().err.startswith("streamclf: the input ended before the last answer; nothing was written")
    answers(monkeypatch, *["?"] * 9)
    assert init("--url", "rtsp://h/1") == 2
    assert "5 answers that cannot be used" in capsys.readouterr().err
    assert not list(here.iterdir())


def test_ctrl_c_at_a_question_begins_a_new_line(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(question: str) -> str:
        print(question, end="")
        raise Interrupted

    answers(monkeypatch)
    monkeypatch.setattr(builtins, "input", interrupt)
    with pytest.raises(Interrupted):
        run_init(here / "cameras.yaml", Options())
    assert capsys.readouterr().out.endswith("Cameras: \n")


def test_a_film_is_played_again_and_again_from_wherever_the_file_is(here: Path, tmp_path: Path) -> None:
    write_flat(here / "front door.mp4", (9, 9, 9), width=64, height=48)
    (here / "sub").mkdir()
    assert init("sub/cameras.yaml", "--yes", "--url", "front door.mp4") == 0
    stream = load_config(here / "sub" / "cameras.yaml", {}).streams["front-door"]
    assert stream.loop
    assert Path(stream.url or "").samefile(here / "front door.mp4")


@pytest.mark.parametrize("name", ["20240101_120000", "0", "-1", "NULL"])
def test_a_film_whose_name_yaml_would_read_as_another_value_keeps_it(here: Path, name: str) -> None:
    write_flat(here / f"{name}.mp4", (9, 9, 9), width=64, height=48)
    assert init("--yes", "--no-try", "--url", f"{name}.mp4") == 0
    assert list(load_config(here / "cameras.yaml", {}).streams) == [name.strip("-")]


def test_existing_files_stay_without_force(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--yes", "--no-try", "--url", "door=rtsp://me:first9@h/1")
    (here / "cameras.yaml").write_text("mine")
    assert init(*options) == 2
    assert "cameras.yaml: exists; give another name, or --force to replace it" in capsys.readouterr().err
    assert (here / "cameras.yaml").read_text() == "mine"
    assert init(*options, "--force") == 0
    assert (here / "cameras.env").read_text().endswith("DOOR_PASSWORD=first9\n")
    with (here / "cameras.env").open("a") as file:
        file.write("# my own\nOWN=1\n")
    (here / "cameras.yaml").unlink()
    other = ("--yes", "--no-try", "--url", "door=rtsp://me:second9@h/1")
    assert init(*other) == 2
    assert "cameras.env: exists, with other values" in capsys.readouterr().err
    assert init(*other, "--force") == 0
    assert (here / "cameras.env").read_text().splitlines()[1:] == ["# my own", "OWN=1", "DOOR_PASSWORD=second9"]


def test_a_file_of_variables_that_cannot_be_used_stays(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "cameras.env").symlink_to(here / "absent")
    assert init("--yes", "--no-try", "--url", "door=rtsp://me:first9@h/1", "--force") == 2
    assert "cameras.env: cannot be read" in capsys.readouterr().err
    assert [path.name for path in here.iterdir()] == ["cameras.env"]


def test_a_variable_of_the_environment_with_another_value_is_not_used(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOOR_PASSWORD", "another")
    assert init("--yes", "--no-try", "--url", "door=rtsp://me:first9@h/1") == 0
    assert load_config(here / "cameras.yaml").streams["door"].url == "rtsp://me:first9@h/1"


@pytest.mark.parametrize(
    ("url", "written"),
    [
        ("rtsp://h/user=me_password=Hidden9_channel=1.sdp", "rtsp://h/user=me_password=${DOOR_SECRET}_channel=1.sdp"),
        ("http://h/live?x=1&token=Hidden9&y=2", "http://h/live?x=1&token=${DOOR_SECRET}&y=2"),
        ("https://Hidden9Hidden9@h/live", "https://${DOOR_TOKEN}@h/live"),
        ("rtsp://me:Hidden9%40%2F@h/1", "rtsp://me:${DOOR_PASSWORD}@h/1"),
        ("rtsp://h:554/1", "rtsp://h:554/1"),
        ("rtsp://h/a\u2028b\x85c", "rtsp://h/a\\u2028b\\u0085c"),
        ('rtsp://h/" #{x: y}', 'rtsp://h/\\" #{x: y}'),
    ],
)
def test_each_kind_of_secret_is_taken_out_and_put_back(here: Path, url: str, written: str) -> None:
    assert init("--yes", "--no-try", "--url", f"door={url}") == 0
    text = (here / "cameras.yaml").read_text()
    assert written in text
    assert "Hidden9" not in text
    assert load_config(here / "cameras.yaml", {}).streams["door"].url == url


def test_the_examples_in_comments_are_valid(here: Path) -> None:
    assert init("--yes", "--no-try", "--url", "rtsp://h/1") == 0
    path = here / "cameras.yaml"
    text = path.read_text()
    path.write_text(re.sub(r"^( *)# (clips|outlets|log):", r"\1\2:", text, flags=re.MULTILINE))
    config = load_config(path)
    assert config.clips is not None
    assert [outlet.KIND for outlet in config.outlets.all] == ["log"]


def test_a_placeholder_stays(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAM", "a/b")
    assert init("--yes", "--no-try", "--url", "door=rtsp://me:${CAM}@h/1") == 0
    assert "rtsp://me:${CAM}@h/1" in (here / "cameras.yaml").read_text()
    assert not (here / "cameras.env").exists()


def test_the_page_names_its_address_or_what_to_install(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ("--yes", "--no-try", "--url", "rtsp://h/1", "--page", "--mqtt", "h")
    monkeypatch.setattr(command, "_is_installed", lambda kind: False)
    assert init("a.yaml", *options) == 0
    out = capsys.readouterr().out
    assert "web needs: pip install '.[web]'" in out
    assert "mqtt needs: pip install '.[mqtt]'" in out
    assert load_config(here / "a.yaml").outlets.all == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["x.txt"], "x.txt: give a name that ends in .yaml, like cameras.yaml"),
        (["absent/x.yaml"], "absent/x.yaml: absent does not exist; create it first"),
        (["dir.yaml"], "dir.yaml: is a directory"),
        (["--url", "rtsp://me:a#Hidden9@h/1"], "a sign in the user name or password is not encoded"),
        (["--url", "gopher://Hidden9@h/1"], "one of rtsp, rtsps, http, https, file"),
        (["--url", "two words=rtsp://h/1"], "the name 'two words' before =: must be 1 to 64 letters, digits, _ and -"),
        (["--url", "a=rtsp://h/1", "--url", "a=rtsp://h/2"], "two cameras have the name a"),
        (["--url", ""], "--url: an empty text"),
        (["--url", "10.0.0.5:554/live"], "10.0.0.5:554/live: no such file; give a video file, a URL like rtsp://HOST"),
        (["--url", "rtsp://me:${ABSENT}@h/1"], "camera1.url: environment variable ABSENT is not set"),
        (["--camera", "100"], "camera=100: 0 to 99"),
        (["--url", "rtsp://h/1", "--mqtt", "http://h"], "the scheme is not mqtt or mqtts"),
        (["--url", "rtsp://h/1", "--mqtt", "mqtt://:Hidden9@h"], "a password without a user"),
        (["--url", "rtsp://me:Hid%0Aden9@h/1"], "the password holds a control character"),
        ([], "no camera was found on this machine; give --url"),
    ],
)
def test_wrong_options_are_reported_in_one_line(
    here: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    (here / "dir.yaml").mkdir()
    assert init("--yes", "--no-try", *arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("streamclf: ")
    assert err.count("\n") == 1
    assert message in err
    assert "Hidden9" not in err
    assert [path.name for path in here.iterdir()] == ["dir.yaml"]


def test_a_wrong_broker_is_reported_before_the_cameras_are_tried(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert init("--yes", "--url", "rtsp://127.0.0.1:1/x", "--mqtt", "http://h") == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "the scheme is not mqtt or mqtts" in err


def test_without_a_terminal_nothing_is_asked(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("0\n"))
    assert init() == 2
    assert "no terminal to ask on; give --camera or --url, and --yes" in capsys.readouterr().err
