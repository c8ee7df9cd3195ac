"""Variables of a configuration: the environment has precedence over the file beside it, and the file is private."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

import pytest

from streamclf.config.events_endpoint import load_endpoint
from streamclf.config.service import load_config
from streamclf.config.variables import Variables, add_variables, read_variables
from streamclf.errors import ConfigError

CONFIG = "streams: {door: {url: 'rtsp://me:${DOOR_PASSWORD}@10.0.0.5/1'}}\n"
ODD = {"A": "plain", "B": 'it\'s #1 $HOME `x` \\n "q"', "C": "", "D": "schöne Grüße", "_E9": "a=b"}


def write(path: Path, text: str, mode: int = 0o600) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


def test_a_shell_and_this_project_read_the_same_values(tmp_path: Path) -> None:
    path = write(tmp_path / "x.env", add_variables("# comment\nB=old\n", ODD))
    assert read_variables(path) == ODD
    script = f". {shlex.quote(str(path))}; " + "; ".join(f'printf "%s\\0" "${name}"' for name in ODD)
    done = subprocess.run(["sh", "-c", script], capture_output=True, check=True)
    assert done.stdout.decode().split("\0")[:-1] == list(ODD.values())


def test_a_variable_comes_from_the_file_and_the_environment_has_precedence(tmp_path: Path) -> None:
    config = write(tmp_path / "cameras.yaml", CONFIG)
    write(tmp_path / "cameras.env", "# note\n\nexport DOOR_PASSWORD='a#b'\r\nOTHER=1\n")
    assert load_config(config, {}).streams["door"].url == "rtsp://me:a%23b@10.0.0.5/1"
    assert load_config(config, {"DOOR_PASSWORD": "c"}).streams["door"].url == "rtsp://me:c@10.0.0.5/1"
    write(tmp_path / "cameras.yaml", CONFIG + "publish: {events: 'tcp://127.0.0.1:${OTHER}'}\n")
    assert load_endpoint(config, {}) == "tcp://127.0.0.1:1"


def test_a_file_that_windows_wrote_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    path = write(tmp_path / "cameras.env", "\ufeffDOOR_PASSWORD=c\r\nOTHER=1\r\n")
    assert read_variables(path) == {"DOOR_PASSWORD": "c", "OTHER": "1"}


def test_a_file_that_is_not_needed_is_not_read(tmp_path: Path) -> None:
    config = write(tmp_path / "cameras.yaml", CONFIG)
    write(tmp_path / "cameras.env", "not an assignment, and public\n", 0o644)
    assert load_config(config, {"DOOR_PASSWORD": "c"}).streams["door"].url == "rtsp://me:c@10.0.0.5/1"


def test_a_missing_variable_is_named_with_both_remedies(tmp_path: Path) -> None:
    config = write(tmp_path / "cameras.yaml", CONFIG)
    message = "DOOR_PASSWORD is not set; export it first, or write it into cameras.env"
    with pytest.raises(ConfigError, match=message):
        load_config(config, {})
    write(tmp_path / "cameras.env", "OTHER=1\n")
    with pytest.raises(ConfigError, match=message):
        load_config(config, {})


@pytest.mark.parametrize(
    ("text", "mode", "message"),
    [
        ("DOOR_PASSWORD=x\n", 0o644, "mode 0644 lets others read the secret; chmod 600"),
        ("A=1\nHidden9\n", 0o600, "line 2: write NAME=VALUE"),
        ("A=Hidden9 x\n", 0o600, "line 1: write NAME=VALUE; put a value with blanks into single quotes"),
        ("9A=Hidden9\n", 0o600, "line 1: write NAME=VALUE"),
        ("A='Hidden9\n", 0o600, "line 1: quotes that do not end"),
        ("A=" + "Hidden9" * 10_000, 0o600, "more than the limit: at most 65536"),
    ],
)
def test_a_wrong_file_is_reported_without_its_values(tmp_path: Path, text: str, mode: int, message: str) -> None:
    path = write(tmp_path / "cameras.env", text, mode)
    with pytest.raises(ConfigError) as found:
        Variables({}, tmp_path / "cameras.yaml")["DOOR_PASSWORD"]
    assert message in str(found.value)
    assert str(path) in str(found.value)
    assert "Hidden9" not in str(found.value)
