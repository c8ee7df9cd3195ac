"""`check` finds what a service could not open: taken ports, films without frames, hosts that do not answer."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from support.clips import film
from support.hub_process import HubProcess, prediction, read_journal, wait_until
from support.rtsp_server import RtspServer

from streamclf.builtin_models import find_bundle
from streamclf.cli import _main
from streamclf.commands import running_service
from streamclf.producer.link import EventProducer

FREE = "publish: {events: 'tcp://127.0.0.1:*', replay: 'tcp://127.0.0.1:*'}\n"


def check(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, *options: str) -> tuple[int, list[str]]:
    path = tmp_path / "service.yaml"
    path.write_text(text)
    code = _main(["check", str(path), *options])
    lines = capsys.readouterr().out.splitlines()
    last = next(number for number, line in enumerate(lines) if line.startswith(str(path)))
    return code, lines[: last + 1]  # the need of disk follows


def test_a_taken_port_is_a_problem(tmp_path: Path, clip: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        text = f"streams: {{a: {{url: {clip}}}}}\npublish: {{events: 'tcp://127.0.0.1:{port}', replay: 'tcp://127.0.0.1:*'}}\n"
        code, lines = check(tmp_path, capsys, text)
    assert code == 1
    assert f"publish.events tcp://127.0.0.1:{port}: Address already in use" in lines[0]
    assert "1 problem(s)" in lines[-1]


def test_an_outlet_on_the_port_of_the_events_is_a_problem(
    tmp_path: Path, clip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    publish = f"publish: {{events: 'tcp://127.0.0.1:{port}', replay: 'tcp://127.0.0.1:*'}}\n"
    text = f"streams: {{a: {{url: {clip}}}}}\n{publish}outlets: {{metrics: {{port: {port}}}}}\n"
    code, lines = check(tmp_path, capsys, text)
    assert code == 1
    assert lines[0] == f"outlets.metrics: 127.0.0.1:{port}: Address already in use; choose another port"


def test_a_shared_folder_of_a_socket_is_a_problem(
    tmp_path: Path, clip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o755)
    text = f"streams: {{a: {{url: {clip}}}}}\npublish: {{events: 'ipc://{shared}/e', replay: 'tcp://127.0.0.1:*'}}\n"
    code, lines = check(tmp_path, capsys, text)
    assert code == 1
    assert "other users may enter" in lines[0]
    assert not list(shared.iterdir())


def test_a_film_without_frames_is_a_problem(tmp_path: Path, clip: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.mp4").write_text("no film")
    code, lines = check(tmp_path, capsys, f"streams: {{good: {{url: {clip}}}, bad: {{url: bad.mp4}}}}\n{FREE}")
    assert code == 1
    assert [line.partition(":")[0] for line in lines[:-1]] == ["streams.bad"]
    assert "not a video" in lines[0]


def test_hosts_are_reached_and_cameras_only_with_connect(
    tmp_path: Path, clip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        text = f"streams: {{door: {{url: 'rtsp://me:hunter22@127.0.0.1:{port}/1', open_timeout_s: 0.5}}}}\n{FREE}"
        assert check(tmp_path, capsys, text)[0] == 0
        code, lines = check(tmp_path, capsys, text, "--connect")
        assert code == 1
        assert lines[0].startswith("streams.door: ")
    code, lines = check(tmp_path, capsys, text)
    assert code == 1
    assert lines[0] == f"streams.door: 127.0.0.1:{port}: connection refused; check address and port"
    assert "hunter22" not in "".join(lines)


def test_connect_names_what_each_camera_sends(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with RtspServer({"cam": film(frames=100)}) as server:
        url = server.url("cam")
        text = f"streams: {{a: {{url: '{url}'}}, b: {{url: '{url}'}}}}\n{FREE}"
        code, lines = check(tmp_path, capsys, text, "--connect")
    assert code == 0, lines
    assert lines[0].startswith("note: streams a, b: the same source; many cameras allow only one connection: give one")
    assert "streams.a: live (h264" in lines[1]
    assert lines[-1].endswith(", events on tcp://127.0.0.1:*")


def _post(hub: HubProcess, link: EventProducer) -> None:
    """Have the hub publish an event, as a service does soon after its start."""
    link.post(prediction())
    wait_until(lambda: bool(read_journal(hub.journal)), "an event in the journal")


def test_the_ports_of_the_running_service_itself_are_no_problem(
    tmp_path: Path, clip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def text(journal: Path) -> str:
        ports = f"events: '{hub.events}', replay: '{hub.replay}'"
        return f"streams: {{a: {{url: {clip}}}}}\npublish: {{{ports}, journal: {journal}}}\n"

    with HubProcess() as hub, EventProducer(hub.link, "test") as link:
        _post(hub, link)
        code, lines = check(tmp_path, capsys, text(hub.journal))
        assert code == 0, lines
        assert lines[0] == "note: the service of this configuration runs on this machine now, and uses its ports"
        code, lines = check(tmp_path, capsys, text(tmp_path / "other.db"))
        assert code == 1
        assert [line.partition(" tcp")[0] for line in lines[:-1]] == ["publish.events", "publish.replay"]
    code, lines = check(tmp_path, capsys, text(tmp_path / "other.db"))
    assert code == 0
    assert len(lines) == 1


def test_a_service_that_publishes_elsewhere_does_not_excuse_a_taken_port(
    tmp_path: Path, clip: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running_service, "ANSWER_S", 0.2)
    with (
        HubProcess() as hub,
        EventProducer(hub.link, "test") as link,
        socket.create_server(("127.0.0.1", 0)) as taken,
    ):
        _post(hub, link)
        ports = f"events: 'tcp://127.0.0.1:{taken.getsockname()[1]}', replay: 'tcp://127.0.0.1:*'"
        text = f"streams: {{a: {{url: {clip}}}}}\npublish: {{{ports}, journal: {hub.journal}}}\n"
        code, lines = check(tmp_path, capsys, text)
    assert code == 1
    assert lines[0].startswith("publish.events")


def test_a_label_and_a_stream_that_are_misspelt_are_reported_with_the_nearest(
    tmp_path: Path, clip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    streams = f"streams: {{door: {{url: {clip}}}, yard: {{url: {clip}}}}}\n{FREE}"
    model = find_bundle("camera-events").spec.id
    for more, message in (
        ("actions: {coverd: {}}", f"actions.coverd: no label coverd; {model} has normal, covered, defocused, "),
        ("actions: {coverd: {}}", "; did you mean covered?"),
        (
            "outlets: {metrics: {streams: [dor]}}",
            "outlets.metrics.streams: no stream dor; the configuration has door, yard; did you mean door?",
        ),
    ):
        (tmp_path / "service.yaml").write_text(streams + more)
        assert _main(["check", str(tmp_path / "service.yaml")]) == 2
        err = capsys.readouterr().err
        assert message in err
        assert err.count("\n") == 1


def test_clips_of_a_masked_camera_and_a_region_that_is_too_small_are_named(
    tmp_path: Path, clip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (
        f"streams: {{a: {{url: {clip}, mask: [[0, 0, 0.2, 0.1]]}}, "
        f"b: {{url: {clip}, regions: {{gate: [0, 0, 0.03, 1]}}}}, "
        f"c: {{camera: 0, enabled: false, mask: [[0, 0, 0.2, 0.1]]}}}}\nactions: {{covered: {{}}}}\n{FREE}"
    )
    code, lines = check(tmp_path, capsys, text)
    assert code == 1
    assert lines[0] == (
        "streams.b: region [0, 0, 0.03, 1] is 10x180 pixels of a picture of 320x180: at least 16x16; make the region "
        "larger, or let the camera send larger pictures"
    )
    _, lines = check(tmp_path, capsys, f"{text}clips: {{folder: {tmp_path}/clips}}\n")
    assert lines[0].startswith("note: streams.a: clips show what mask hides, because they are copies of the camera's")
    assert not any("streams.c" in line for line in lines), "its clips are encoded by the service, and masked"
    _, lines = check(tmp_path, capsys, f"{text}examples:\n")
    assert any("streams.a: examples show what mask hides" in line for line in lines)
