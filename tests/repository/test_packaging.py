"""The top level has no stray file; container files, units and the add-on name only what exists."""

from __future__ import annotations

import configparser
import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml
from support.repository import ROOT

from streamclf import __version__
from streamclf.cli import app
from streamclf.config.outlet_options import WebConfig
from streamclf.config.service import load_config

ADDON = ROOT / "configs/home-assistant/streamclf"
UNITS = sorted((ROOT / "configs/systemd").glob("*.service"))
DOCKERFILES = [ROOT / "Dockerfile", ROOT / "Dockerfile.gpu", ADDON / "Dockerfile"]
TOP_LEVEL = {
    ".ci", ".dockerignore", ".gitignore", "CHANGELOG.md", "CONTRIBUTING.md", "Dockerfile", "Dockerfile.gpu", "LICENSE",
    "Makefile", "README.md", "compose.yaml", "configs", "docs", "engines", "pyproject.toml", "streamclf", "tests",
    "training",
}  # fmt: skip
CAMERA = {"DOOR_USER": "viewer", "DOOR_PASSWORD": "secret-of-the-door", "PAGE_TOKEN": "0123456789abcdef"}


def check_command(words: list[str]) -> None:
    """Check that the command line knows a command and its options."""
    command = typer.main.get_command(app).commands.get(words[0])  # type: ignore[attr-defined]
    assert command is not None, words
    known = {option for parameter in command.params for option in parameter.opts}
    assert {word for word in words if word.startswith("--")} <= known, words


def instructions(path: Path) -> list[tuple[str, str]]:
    """Return (instruction, rest) of each line of a Dockerfile; lines that continue are joined."""
    text = re.sub(r"^#.*\n", "", path.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [tuple(line.split(maxsplit=1)) for line in text.splitlines() if line.strip()]  # type: ignore[misc]


def ignored(path: str) -> bool:
    """Tell whether `.dockerignore` keeps a file of the top level out of the build."""
    return f"!{path}" not in (ROOT / ".dockerignore").read_text().splitlines()


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a git checkout")
def test_the_top_level_has_no_stray_file() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert {path.split("/")[0] for path in listed.splitlines()} == TOP_LEVEL


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_dockerfiles_copy_files_that_exist_and_run_commands_that_exist(path: Path) -> None:
    found = instructions(path)
    for instruction, rest in found:
        if instruction == "COPY" and "--from" not in rest:
            for source in rest.split()[:-1]:
                if source == "streamclf-*.whl":
                    continue  # the user makes it
                assert (path.parent / source).exists(), source
                assert path.parent != ROOT or not ignored(source), f".dockerignore excludes {source}"
    last = dict(found)
    check_command(json.loads(last["HEALTHCHECK"].partition(" CMD ")[2])[1:])
    if path.parent == ROOT:
        assert last["USER"] == "10001:10001"
        assert json.loads(last["ENTRYPOINT"]) == ["streamclf"]
        check_command(json.loads(last["CMD"]))
        stages = [rest for instruction, rest in found if instruction == "FROM"]
        assert "AS build" in stages[0]
        assert " AS " not in stages[-1], "the last stage must not be the one with the compiler"
        assert "pip" not in "".join(rest for _, rest in found[found.index(("FROM", stages[-1])) :])


def test_compose_uses_files_and_commands_that_exist() -> None:
    compose = yaml.safe_load((ROOT / "compose.yaml").read_text())
    for name, service in compose["services"].items():
        for volume in service["volumes"]:
            source = volume.partition(":")[0]
            assert (ROOT / source).exists() if source.startswith("./") else source in compose["volumes"], volume
        if "command" in service:
            check_command(service["command"])
        assert name == "mosquitto" or (service["read_only"] and service["cap_drop"] == ["ALL"])
    config = load_config(ROOT / "configs/containers/service.yaml", CAMERA)
    assert str(config.publish.journal) == "/var/lib/streamclf/streamclf.db"
    assert config.publish.events == "tcp://127.0.0.1:5555", "the health check asks there"
    page = config.outlets.web
    assert isinstance(page, WebConfig)
    assert compose["services"]["streamclf"]["ports"] == [f"127.0.0.1:{page.port}:{page.port}"]
    needed = {outlet.KIND for outlet in config.outlets.all}
    for path in (ROOT / "Dockerfile", ROOT / "Dockerfile.gpu"):
        extras = re.search(r'"\.\[(.*)\]"', path.read_text())
        assert extras is not None
        assert needed <= set(extras[1].split(","))


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_units_write_to_their_own_folders_only(path: Path) -> None:
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(path)
    service = unit["Service"]
    check_command(shlex.split(service["ExecStart"])[1:])
    assert service["ProtectSystem"] == "strict"
    assert service["WorkingDirectory"] == f"/var/lib/{service['StateDirectory']}"
    if path.name == "streamclf.service":
        assert f"STREAMCLF_CACHE=/var/cache/{service['CacheDirectory']}" in service["Environment"]
        assert "MemoryDenyWriteExecute" not in service


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_systemd_accepts_the_units() -> None:
    done = subprocess.run(["systemd-analyze", "verify", *map(str, UNITS)], capture_output=True, text=True, timeout=60)
    complaints = [line for line in done.stderr.splitlines() if any(unit.name in line for unit in UNITS)]
    assert [line for line in complaints if "is not executable" not in line] == []


def test_the_addon_describes_each_option_and_has_this_version() -> None:
    config = yaml.safe_load((ADDON / "config.yaml").read_text())
    texts = yaml.safe_load((ADDON / "translations/en.yaml").read_text())["configuration"]
    assert config["version"] == __version__
    assert set(texts) == set(config["schema"])
    assert set(config["options"]) <= set(config["schema"])
    assert config["options"]["log_level"] in config["schema"]["log_level"]
    assert str(load_config(ADDON / "service.yaml", CAMERA).publish.journal) == "/data/streamclf.db"


@pytest.fixture
def supervisor() -> Iterator[str]:
    """A supervisor of Home Assistant that names a broker, to those who have its token."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            known = self.headers["Authorization"] == "Bearer token" and self.path == "/services/mqtt"
            broker = {
                "host": "core-mosquitto",
                "port": 1883,
                "ssl": False,
                "username": "addons",
                "password": "of-broker",
            }
            self.send_response(200 if known else 401)
            self.end_headers()
            self.wfile.write(json.dumps({"result": "ok", "data": broker}).encode())

        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


FAKE = r"""#!{python}
import os, signal, sys
own = {{key: value for key, value in os.environ.items() if key.startswith(("STREAMCLF_", "DOOR", "SUPER"))}}
os.write(1, f"{{sys.argv[1:]}} {{own}}\n".encode())  # in one piece: two processes write
if sys.argv[1] == "run" and os.environ.get("DOOR_USER") == "nobody":
    sys.exit(2)
signal.pause()
"""


def start_addon(folder: Path, supervisor: str, token: str = "token", **options: Any) -> subprocess.Popen[str]:
    """Start the add-on's script with commands that only print what they are given."""
    (folder / "options.json").write_text(json.dumps({"config": "service.yaml", "log_level": "info", **options}))
    fake = folder / "bin/streamclf"
    fake.parent.mkdir(exist_ok=True)
    fake.write_text(FAKE.format(python=sys.executable))
    fake.chmod(0o755)
    environ = {
        "PATH": f"{fake.parent}:/usr/bin:/bin", "ADDON_DATA": str(folder), "ADDON_CONFIG": str(folder),
        "ADDON_SUPERVISOR": supervisor, "SUPERVISOR_TOKEN": token, "PYTHONUNBUFFERED": "1",
    }  # fmt: skip
    return subprocess.Popen(
        [sys.executable, str(ADDON / "run.py")],
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_the_first_start_of_the_addon_creates_a_configuration(tmp_path: Path, supervisor: str) -> None:
    process = start_addon(tmp_path, supervisor)
    assert "Edit it" in process.communicate(timeout=30)[0]
    assert process.returncode == 1
    assert (tmp_path / "service.yaml").read_text() == (ADDON / "service.yaml").read_text()


def test_the_addon_runs_service_and_outlet_with_the_broker_of_home_assistant(tmp_path: Path, supervisor: str) -> None:
    (tmp_path / "service.yaml").touch()
    process = start_addon(tmp_path, supervisor, environment=[{"name": "DOOR_USER", "value": "viewer"}])
    assert process.stdout is not None
    lines = sorted(process.stdout.readline() for _ in range(2))
    mqtt, service = lines
    assert "'mqtt://core-mosquitto:1883'" in mqtt
    assert "'STREAMCLF_MQTT_PASSWORD': 'of-broker'" in mqtt
    assert "'DOOR_USER': 'viewer'" in service
    assert "of-broker" not in service
    assert "SUPERVISOR_TOKEN" not in mqtt + service
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 0


def test_the_addon_ends_with_the_service_and_works_without_a_broker(tmp_path: Path, supervisor: str) -> None:
    (tmp_path / "service.yaml").touch()
    process = start_addon(tmp_path, supervisor, token="wrong", environment=[{"name": "DOOR_USER", "value": "nobody"}])
    out = process.communicate(timeout=30)[0]
    assert "No MQTT broker" in out
    assert "'mqtt'" not in out
    assert process.returncode == 2
