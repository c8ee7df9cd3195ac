"""No command contacts another machine on its own, and none writes outside its folders: usage reports are off."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Collection, Sequence
from pathlib import Path

import pytest
import yaml
from support.bundles import make_brightness_bundle
from support.clip_recipes import clip_recipe_tree
from support.clips import write_clip
from support.labelled import write_set

ROOT = Path(__file__).parents[2]
NO_NETWORK = ROOT / "tests" / "support" / "no_network"


class Sandbox:
    """Run programs with an empty home directory, and with every attempt to reach another machine refused."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.home, self.attempts = folder / "work", folder / "home", folder / "attempts"
        self.folder.mkdir()
        self.home.mkdir()
        self.attempts.touch()

    def run(self, *arguments: str, until: Collection[str] = ()) -> subprocess.CompletedProcess[str]:
        """Run `python ARGUMENTS`, to its end or until its stderr has all of these texts."""
        keep = {key: os.environ[key] for key in ("PATH", "LANG", "LD_LIBRARY_PATH") if key in os.environ}
        env = {
            **keep,
            "HOME": str(self.home),
            "PYTHONPATH": f"{NO_NETWORK}:{ROOT}",
            "ATTEMPTS": str(self.attempts),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        with subprocess.Popen(
            [sys.executable, *arguments], cwd=self.folder, env=env, stderr=subprocess.PIPE, text=True
        ) as process:
            assert process.stderr is not None
            err, waits = "", bool(until)
            try:
                for line in process.stderr:
                    err += line
                    if waits and all(text in err for text in until):
                        process.terminate()
                        waits = False
            except BaseException:  # the test's time is over
                process.kill()
                raise
            assert not waits, err
        return subprocess.CompletedProcess(process.args, process.returncode, stderr=err)

    def check(self, done: subprocess.CompletedProcess[str]) -> None:
        """Fail if the program failed, tried to reach another machine, or wrote outside the folder of engines."""
        assert self.attempts.read_text() == ""
        assert done.returncode == 0, done.stderr
        written = {path.relative_to(self.home).parts[:2] for path in self.home.rglob("*") if path.is_file()}
        assert written <= {(".cache", "streamclf")}


@pytest.fixture
def sandbox(tmp_path: Path) -> Sandbox:
    return Sandbox(tmp_path)


def test_the_sandbox_notices_an_attempt(sandbox: Sandbox) -> None:
    lookup = "import socket; socket.getaddrinfo('www.example.org', 443)"
    assert sandbox.run("-c", lookup).returncode == 1
    assert "www.example.org" in sandbox.attempts.read_text()


@pytest.mark.parametrize(
    "arguments",
    [
        ("classify", "film.mp4", "--model", "bundle", "--backend", "openvino"),
        ("classify", "film.mp4", "--model", "bundle", "--backend", "onnxruntime"),
        ("compile", "bundle", "--backend", "openvino"),
        ("compile", "gestures", "--backend", "openvino", "--explain"),
        ("doctor",),
    ],
    ids=" ".join,
)
def test_a_command_contacts_nobody(sandbox: Sandbox, arguments: Sequence[str]) -> None:
    pytest.importorskip("openvino")
    pytest.importorskip("onnxruntime")
    make_brightness_bundle(sandbox.folder / "bundle")
    write_clip(sandbox.folder / "film.mp4")
    sandbox.check(sandbox.run("-m", "streamclf", *arguments))


def test_a_service_contacts_nobody(sandbox: Sandbox) -> None:
    make_brightness_bundle(sandbox.folder / "bundle")
    write_clip(sandbox.folder / "film.mp4")
    config = {
        "model": "bundle",
        "publish": {"events": "tcp://127.0.0.1:*", "replay": "tcp://127.0.0.1:*"},
        "streams": {"film": {"url": "film.mp4", "loop": True}},
    }
    (sandbox.folder / "service.yaml").write_text(yaml.safe_dump(config))
    sandbox.check(sandbox.run("-m", "streamclf", "run", "service.yaml", until=("film: live", "publishing on")))


def test_training_and_export_contact_nobody(sandbox: Sandbox) -> None:
    write_set(sandbox.folder / "films", clips=4, validation=2)
    recipe = sandbox.folder / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(clip_recipe_tree(sandbox.folder / "films")))
    commands = [["train", str(recipe), "--run", "run"], ["export", "run", "--output", "trained"]]
    program = ["from training.__main__ import app", *(f"app({each}, standalone_mode=False)" for each in commands)]
    sandbox.check(sandbox.run("-c", "\n".join(program)))  # in one process, because loading PyTorch takes the most time
    assert (sandbox.folder / "trained").is_dir()
