"""The demo takes a camera, a URL or a film, and names the commands that run a service on the same source."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import threading
import webbrowser
from pathlib import Path

import pytest
from support.clips import write_clip
from support.hub_process import wait_until

from streamclf.commands import demo_source
from streamclf.commands.demo_page import DemoPage, has_screen
from streamclf.commands.demo_source import choose_source
from streamclf.config.stream import StreamConfig
from streamclf.errors import SourceError, UsageError


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[StreamConfig]:
    """Collect the sources from which a first frame would be read."""
    found: list[StreamConfig] = []
    monkeypatch.setattr(demo_source, "_read_frame", found.append)
    return found


def test_a_film_is_repeated_and_named_like_its_file(tmp_path: Path) -> None:
    film = write_clip(tmp_path / "my film (1).mp4", frames=5)
    source = choose_source(str(film))
    assert source.stream == "my-film-1"
    assert (source.config.url, source.config.loop, source.config.pace) == (str(film), True, "realtime")
    assert source.service_commands == (
        f"streamclf init cameras.yaml --url '{film}'",
        "streamclf run cameras.yaml",
    )


@pytest.mark.parametrize(("text", "camera", "name"), [("2", 2, "camera2"), ("/dev/video7", "/dev/video7", "video7")])
def test_a_number_or_a_device_is_a_camera(opened: list[StreamConfig], text: str, camera: object, name: str) -> None:
    source = choose_source(text)
    assert opened == [source.config]
    assert (source.config.camera, source.stream) == (camera, name)
    assert source.service_commands[0] == f"streamclf init cameras.yaml --camera {text}"


def test_the_commands_show_no_password(opened: list[StreamConfig]) -> None:
    source = choose_source("rtsp://admin:Hidden9secret@10.0.0.5/stream1?channel=1")
    assert opened[0].url == "rtsp://admin:Hidden9secret@10.0.0.5/stream1?channel=1"
    text = source.service_commands[0]
    assert text == "streamclf init cameras.yaml --url 'rtsp://***@10.0.0.5/stream1?channel=1'"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("absent.mp4", r"absent\.mp4: no such file; give a video file, a URL like rtsp://HOST/PATH, or the number"),
        (".", "a folder; give a video file"),
        ("100", "camera"),
        ("gopher://host/x", "url"),
        ("rtsp://", "url"),
    ],
)
def test_another_text_is_refused_with_what_can_be_given(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        choose_source(text)
    assert "\n" not in str(caught.value)


def test_a_source_without_a_frame_is_an_error_at_once(tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("not a film" * 100)
    with pytest.raises(SourceError, match="text"):
        choose_source(str(tmp_path / "text.mp4"))


def test_the_browser_opens_once_the_page_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", opened.append)
    page, stop = DemoPage(), threading.Event()
    assert page.outlets.web is not None
    assert (page.outlets.web.host, page.address) == ("127.0.0.1", f"http://127.0.0.1:{page.outlets.web.port}")
    page.open_when_ready(stop)
    with socket.create_server(("127.0.0.1", page.outlets.web.port)):
        wait_until(lambda: opened == [page.address], "the browser", 90)
    stop.set()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has these variables")
def test_there_is_a_screen_only_with_a_display(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    assert not has_screen()
    monkeypatch.setenv("WAYLAND_DISPLAY", "wayland-0")
    assert has_screen()


def test_the_demo_of_a_film_ends_with_the_next_commands(tmp_path: Path) -> None:
    film = write_clip(tmp_path / "garden.mp4", frames=60)
    done = subprocess.run(
        [sys.executable, "-m", "streamclf", "demo", "garden.mp4", "--headless", "--no-page", "--seconds", "5"],
        cwd=tmp_path, capture_output=True, text=True, timeout=120, env={**os.environ, "TMPDIR": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "service   streamclf init cameras.yaml --url garden.mp4" in done.stdout
    assert "page " not in done.stdout
    assert re.search(r"garden +live", done.stdout), done.stdout
    assert done.stderr.splitlines()[-4].startswith("streamclf demo: ")
    assert done.stderr.splitlines()[-3:] == [
        "to run a service on this source:",
        "  streamclf init cameras.yaml --url garden.mp4",
        "  streamclf run cameras.yaml",
    ]
    assert sorted(tmp_path.iterdir()) == [film], "nothing is left behind"
