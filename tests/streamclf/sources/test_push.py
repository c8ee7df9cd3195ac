"""Images that a program pushes over a Unix socket or TCP: wrong secrets, slow and fast programs, lost connections."""

from __future__ import annotations

import socket
import stat
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from support.clips import draw, read_number
from support.ports import free_port

import streamclf
from streamclf.config.stream import StreamConfig
from streamclf.errors import ConfigError, SourceError, SourceWaitingError
from streamclf.net.push_protocol import HEADER, make_private_folder, parse_push_address, socket_dir
from streamclf.sources import Source, open_source

DEADLINE_S = 60.0
SECRET = "correct horse battery"


@pytest.fixture
def private(tmp_path: Path) -> Path:
    """A path for a socket in a folder that does not exist yet; short enough for every system."""
    return tmp_path / "p" / "s"


def listening(where: str, **keys: object) -> Source:
    return open_source(StreamConfig.model_validate({"push": where, "open_timeout_s": DEADLINE_S, **keys}))


def until(condition: object) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline
        threading.Event().wait(0.01)


@pytest.mark.parametrize("kind", ["unix", "tcp"])
def test_pushed_images_arrive_unchanged(private: Path, kind: str) -> None:
    where, secret = (str(private), "") if kind == "unix" else (f"tcp://127.0.0.1:{free_port()}", SECRET)
    keys = {"push_secret": secret} if secret else {}
    with listening(where, **keys) as source, streamclf.push(where, width=320, height=180, secret=secret) as sink:
        assert source.live
        began_ns = time.monotonic_ns()
        sink.write(draw(5, 320, 180), pts_ns=123)
        frame = next(source)
        assert (frame.pts_ns, frame.width, frame.height, frame.corrupt) == (123, 320, 180, False)
        assert (frame.to_rgb(180, 320) == draw(5, 320, 180)).all()
        assert read_number(frame.to_rgb(90, 160)) == 5
        sink.write(draw(6, 320, 180))
        frame = next(source)
        assert began_ns <= frame.pts_ns <= frame.captured_ns, (
            "without a time stamp, the time of write, on the same clock"
        )
        assert (source.info.codec, source.info.width) == ("raw", 320)
        until(lambda: sink.sent == 2)  # its thread counts an image after it was sent


def test_the_socket_is_private_exclusive_and_removed(private: Path) -> None:
    with listening(str(private)):
        assert stat.S_IMODE(private.parent.stat().st_mode) == 0o700
        with pytest.raises(SourceError, match="another stream or service listens there"):
            listening(str(private))
    assert not private.exists()
    private.parent.chmod(0o755)
    with pytest.raises(SourceError, match="another user owns it or may enter it; chmod 700"):
        listening(str(private))


def test_the_socket_of_a_killed_service_is_replaced(private: Path) -> None:
    make_private_folder(private.parent)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(private))
    assert private.exists()
    with listening(str(private)) as source, streamclf.push(str(private), width=4, height=2) as sink:
        sink.write(np.zeros((2, 4, 3), np.uint8))
        assert next(source).width == 4


def test_a_wrong_secret_is_refused_and_not_shown(caplog: pytest.LogCaptureFixture) -> None:
    where = f"tcp://127.0.0.1:{free_port()}"
    with listening(where, push_secret=SECRET, open_timeout_s=1) as source:
        with streamclf.push(where, width=4, height=2, secret="something else") as sink:
            with pytest.raises(SourceWaitingError, match=r"no program connected within 1 s \(open_timeout_s\)"):
                next(source)
            with pytest.raises(SourceError, match="refused; the secret is not the stream's push_secret") as caught:
                sink.write(np.zeros((2, 4, 3), np.uint8))
        assert SECRET not in str(caught.value) + caplog.text


def test_a_listener_without_the_secret_gets_no_image() -> None:
    """A program that took the port first does not know the secret, and must not see the images."""
    with socket.socket() as thief:
        thief.bind(("127.0.0.1", 0))
        thief.listen()
        where = f"tcp://127.0.0.1:{thief.getsockname()[1]}"
        with streamclf.push(where, width=4, height=2, secret=SECRET) as sink:
            sink.write(np.zeros((2, 4, 3), np.uint8))
            peer, _ = thief.accept()
            with peer:
                peer.settimeout(DEADLINE_S)
                peer.sendall(b"SCLFPSH1" + bytes(32))
                while len(peer.recv(64, socket.MSG_PEEK)) < 64:
                    pass
                peer.recv(64)
                peer.sendall(b"\1" + bytes(32))
                assert peer.recv(1) == b"", "the sender closes the connection"
            assert sink.sent == 0


def test_a_program_never_blocks_and_dropped_images_are_counted(private: Path) -> None:
    with streamclf.push(str(private), width=320, height=180, queue=3) as sink:
        for i in range(10):
            sink.write(draw(i, 320, 180))
        assert sink.dropped == 7, "no service listens yet: the newest three wait"
        with listening(str(private)) as source:
            numbers = [read_number(next(source).to_rgb(180, 320)) for _ in range(3)]
            assert numbers == [7, 8, 9]
            assert source.dropped_by_sender == 7


def test_a_restarted_service_gets_images_again(private: Path) -> None:
    stop = threading.Event()

    def produce(sink: streamclf.PushSink) -> None:
        while not stop.wait(0.01):
            sink.write(draw(1, 320, 180))

    with streamclf.push(str(private), width=320, height=180) as sink:
        thread = threading.Thread(target=produce, args=(sink,))
        thread.start()
        try:
            for _ in range(2):
                with listening(str(private)) as source:
                    assert read_number(next(source).to_rgb(180, 320)) == 1
        finally:
            stop.set()
            thread.join(DEADLINE_S)
    assert sink.dropped > 0, "while no service listened"


def test_a_silent_program_and_a_closed_connection_are_distinguished(private: Path) -> None:
    reading = listening(str(private), read_timeout_s=0.5)
    with reading as source, streamclf.push(str(private), width=4, height=2) as sink:
        sink.write(np.zeros((2, 4, 3), np.uint8))
        next(source)
        with pytest.raises(SourceError, match=r"no frame for 0\.5 s \(read_timeout_s\)"):
            next(source)
    with listening(str(private)) as source:
        with streamclf.push(str(private), width=4, height=2) as sink:
            sink.write(np.zeros((2, 4, 3), np.uint8))
            next(source)
        with pytest.raises(SourceWaitingError, match="the program closed the connection"):
            next(source)


@pytest.mark.parametrize("header", [b"GET / HTTP/1.1\r\n" * 2, HEADER.pack(b"RGB8", 1 << 20, 1 << 20, 0, 0)])
def test_invalid_headers_are_refused_before_memory_is_allocated(private: Path, header: bytes) -> None:
    with listening(str(private)) as source, socket.socket(socket.AF_UNIX) as peer:
        failures: list[BaseException] = []

        def read() -> None:
            try:
                next(source)
            except SourceError as error:
                failures.append(error)

        thread = threading.Thread(target=read)
        thread.start()
        _introduce(peer, private)
        peer.sendall(header)
        thread.join(DEADLINE_S)
        assert not thread.is_alive()
        assert "bytes that are not an image" in str(failures[0])


def _introduce(peer: socket.socket, path: Path) -> None:
    from streamclf.net.push_protocol import GREETING_BYTES, make_proof

    peer.connect(str(path))
    greeting = peer.recv(GREETING_BYTES, socket.MSG_WAITALL)
    peer.sendall(bytes(32) + make_proof("", b"program", greeting[8:], bytes(32)))
    assert peer.recv(33, socket.MSG_WAITALL)[:1] == b"\1"


def test_a_stop_request_ends_the_wait_for_a_program(private: Path) -> None:
    stop = threading.Event()
    with open_source(StreamConfig(push=str(private), open_timeout_s=100), stop=stop) as source:
        threading.Timer(0.1, stop.set).start()
        assert list(source) == []


def test_wrong_images_and_addresses_are_refused_at_once(private: Path) -> None:
    with streamclf.push(str(private), width=4, height=2) as sink:
        with pytest.raises(ValueError, match=r"frame is uint8 \(4, 2, 3\): must be uint8 \(2, 4, 3\)"):
            sink.write(np.zeros((4, 2, 3), np.uint8))
        with pytest.raises(ValueError, match="frame is float32"):
            sink.write(np.zeros((2, 4, 3), np.float32))
    with pytest.raises(SourceError, match="closed"):
        sink.write(np.zeros((2, 4, 3), np.uint8))
    for where in ("tcp://10.0.0.1:9000", "tcp://127.0.0.1:0", "two words", "udp://x", "/" + "x" * 200):
        with pytest.raises(SourceError, match="push"):
            parse_push_address(where)


def test_a_bare_name_is_the_same_socket_for_service_and_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert socket_dir() == tmp_path / "streamclf"
    with listening("screen") as source, streamclf.push("screen", width=4, height=2) as sink:
        sink.write(np.zeros((2, 4, 3), np.uint8))
        assert next(source).height == 2


def test_the_configuration_requires_a_secret_for_tcp_and_does_not_show_it() -> None:
    from streamclf.config.service import parse_config

    for stream, message in (
        ({"push": "tcp://127.0.0.1:9000"}, "needs a push_secret of at least 12 characters"),
        ({"push": "tcp://127.0.0.1:9000", "push_secret": "geheim"}, "needs a push_secret"),
        ({"push": "tcp://8.8.8.8:9000", "push_secret": SECRET}, "a loopback address"),
        ({"push": "a b"}, "a name of letters"),
        ({"camera": 0, "push_secret": SECRET}, "push_secret without push"),
        ({"push": "a", "push_secret": ["geheim"]}, "push_secret"),
    ):
        with pytest.raises(ConfigError, match=message) as caught:
            parse_config({"streams": {"a": stream}}, base=Path(), origin="x.yaml")
        assert "geheim" not in str(caught.value)
