"""Test a service with CURVE keys from outside: allowed clients get all events, others not one byte of an event."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zmq
import zmq.auth
from support.bundles import make_brightness_bundle
from support.clips import write_clip
from support.hostile_clients import RecordingRelay, connect, frame, greeting, ready, receive_until_quiet
from support.hub_process import HubProcess, prediction, wait_until
from support.repository import ROOT
from support.service import Service

from streamclf.client.subscription import Subscription, subscribe
from streamclf.config.service import load_config
from streamclf.errors import BusError
from streamclf.events.positions import START
from streamclf.events.types import Prediction
from streamclf.net.curve_keys import load_certificate, make_keys
from streamclf.producer.link import EventProducer

DOCS = ROOT / "docs"
MARK = "only-allowed-clients-may-read-this"
"""In every prediction; the raw TCP stream is searched for it."""


class KeyedHub:
    """A hub with keys, and the files with its keys and its clients' keys."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.allowed = directory / "allowed"
        self.allowed.mkdir()
        self.server, secret = make_keys(directory, "server")
        self.hub = HubProcess(keys=secret, allow=self.allowed)

    def client(self, name: str, *, allowed: bool = True) -> Path:
        """Make a client's keys; return the one file that a subscriber needs."""
        public, secret = make_keys(self.directory, name, service=self.server, endpoint=self.hub.events)
        if allowed:
            self.allow_key(public)
        return secret

    def allow_key(self, public: Path) -> None:
        shutil.copy(public, self.allowed)


@pytest.fixture(autouse=True)
def quick_refusals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamclf.net.curve_client.REFUSED_S", 0.6)
    monkeypatch.setattr("streamclf.net.curve_client.REOPEN_AFTER_S", 0.2)


@pytest.fixture
def keyed(tmp_path: Path) -> Iterator[KeyedHub]:
    keyed = KeyedHub(tmp_path)
    with keyed.hub:
        yield keyed


@pytest.fixture
def link(keyed: KeyedHub) -> Iterator[EventProducer]:
    with EventProducer(keyed.hub.link, "test") as link:
        yield link


class SteadyProducer:
    """Post predictions all the time in a thread, each with its number and `MARK`."""

    def __init__(self, link: EventProducer) -> None:
        self.posted = 0
        self._link = link
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> SteadyProducer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(0.005):
            self._link.post(prediction(number=self.posted, model=MARK))
            self.posted += 1


def next_prediction(events: Subscription, deadline_s: float = 60.0) -> Prediction:
    end = time.monotonic() + deadline_s
    while time.monotonic() < end:
        event = events.receive(0.2)
        if isinstance(event, Prediction):
            return event
    raise AssertionError("no prediction")


def error_of(action: Callable[[], object]) -> str:
    with pytest.raises(BusError) as caught:
        action()
    return str(caught.value)


def error_within(events: Subscription, deadline_s: float) -> str:
    """Receive until the subscription fails; return the error."""
    end = time.monotonic() + deadline_s

    def receive() -> None:
        while time.monotonic() < end:
            events.receive(0.2)

    return error_of(receive)


def error_of_subscribing(endpoint: str | Path, keys: Path | None = None, server_key: Path | None = None) -> str:
    with subscribe(endpoint, keys=keys, server_key=server_key, patience_s=30) as events:
        return error_of(lambda: next(iter(events)))


def test_one_key_file_is_enough_for_events_and_replay(keyed: KeyedHub, link: EventProducer) -> None:
    for number in range(50):
        link.post(prediction(number=number))
    wait_until(lambda: link.unacknowledged == 0, "confirmation")
    with subscribe(keyed.client("viewer"), replay=True, after=START) as events:
        assert [next_prediction(events).offset for _ in range(50)] == list(range(1, 51))
        link.post(prediction())
        assert next_prediction(events).offset == 51
        assert events.snapshot().head == 51


def test_events_on_the_wire_are_encrypted(keyed: KeyedHub, link: EventProducer) -> None:
    secret = keyed.client("viewer")
    with (
        RecordingRelay(keyed.hub.events) as relay,
        SteadyProducer(link),
        subscribe(relay.endpoint, keys=secret, types=["prediction"]) as events,
    ):
        for _ in range(20):
            assert next_prediction(events).model == MARK
        assert len(relay.from_service) > 20 * 400
        for word in (MARK.encode(), b"prediction", b"heartbeat", b"offset"):
            assert word not in relay.from_service


@pytest.mark.parametrize("mechanism", [b"NULL", b"PLAIN", b"CURVE"])
def test_client_without_keys_gets_no_byte_of_an_event(keyed: KeyedHub, link: EventProducer, mechanism: bytes) -> None:
    handshakes = {
        b"NULL": ready(b"SUB"),
        b"PLAIN": frame(b"\x05HELLO\x05admin\x05admin", flags=4) + frame(b"\x08INITIATE", flags=4),
        b"CURVE": frame(b"\x05HELLO" + b"\x01\x00" + os.urandom(192), flags=4),
    }
    with SteadyProducer(link), connect(keyed.hub.events) as events, connect(keyed.hub.replay) as replay:
        for peer in (events, replay):
            peer.sendall(greeting(mechanism) + handshakes[mechanism])
            with contextlib.suppress(ConnectionError):
                peer.sendall(frame(b"\1") + frame(b"", flags=1) + frame(b'{"v":1,"request":"snapshot"}'))
            received = receive_until_quiet(peer, 0.7)
            assert len(received) <= 64, "more than ZeroMQ's greeting"
            assert MARK.encode() not in received


@pytest.mark.parametrize("wrong", ["no keys", "not on the list", "other service"])
def test_refused_client_gets_the_reason_and_no_event(keyed: KeyedHub, link: EventProducer, wrong: str) -> None:
    other_public, _ = make_keys(keyed.directory, "other")
    with RecordingRelay(keyed.hub.events) as relay, SteadyProducer(link):
        if wrong == "no keys":
            error = error_of_subscribing(relay.endpoint)
            assert "refuses clients without keys" in error
        elif wrong == "not on the list":
            secret = keyed.client("viewer", allowed=False)
            error = error_of_subscribing(relay.endpoint, secret)
            assert "does not know the key" in error
            assert "publish.allow" in error
        else:
            secret = keyed.client("viewer")
            error = error_of_subscribing(relay.endpoint, secret, other_public)
            assert "the service's key is not the one" in error
        assert relay.endpoint in error
        assert "secret-key" not in error
        # The greetings, cookies and refusals of some attempts. One event has 400 bytes, and there is one every 5 ms.
        assert len(relay.from_service) < 100 * 500
        assert MARK.encode() not in relay.from_service
        assert b"offset" not in relay.from_service
    context = zmq.Context()
    with context, context.socket(zmq.REQ) as replay:
        replay.linger = 0
        replay.connect(keyed.hub.replay)
        replay.send(b'{"request":"snapshot"}')
        assert not replay.poll(500)


def test_keys_for_a_service_without_keys_give_an_error(tmp_path: Path) -> None:
    server, _ = make_keys(tmp_path, "server")
    _, secret = make_keys(tmp_path, "viewer", service=server)
    with HubProcess() as hub:
        assert "does not use keys" in error_of_subscribing(hub.events, secret)


def test_changes_of_the_allow_list_apply_at_once_and_disturb_no_other_client(
    keyed: KeyedHub, link: EventProducer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamclf.net.curve_client.REFUSED_S", 2.0)  # longer than the refusals before the key is added
    good, late = keyed.client("good"), keyed.client("late", allowed=False)
    with SteadyProducer(link) as producer, subscribe(good, types=["prediction"]) as plain:
        first = next_prediction(plain)
        with subscribe(late, types=["prediction"]) as events:
            assert events.receive(0.5) is None
            keyed.allow_key(keyed.directory / "late.key")
            next_prediction(events)
            (keyed.allowed / "late.key").unlink()
            assert "does not know the key" in error_within(events, 10.0)
        last = producer.posted
        seen = [int(first.window.start_s)]
        while seen[-1] < last:
            seen.append(int(next_prediction(plain).window.start_s))
    assert seen == list(range(seen[0], seen[-1] + 1))
    assert plain.missed == 0


def test_revoked_key_is_disconnected_from_replay_too(keyed: KeyedHub) -> None:
    secret = load_certificate(keyed.client("viewer"), secret=True)
    context = zmq.Context()
    with context, context.socket(zmq.DEALER) as peer:
        peer.linger = 0
        peer.curve_publickey, peer.curve_secretkey, peer.curve_serverkey = secret.public, secret.secret, secret.server
        peer.connect(keyed.hub.replay)
        peer.send(b'{"request":"snapshot"}')
        assert peer.poll(60_000)
        peer.recv_multipart()
        (keyed.allowed / "viewer.key").unlink()
        end = time.monotonic() + 3.0
        while time.monotonic() < end:
            peer.send(b'{"request":"snapshot"}')
            if not peer.poll(500):
                break
            peer.recv_multipart()
        assert time.monotonic() < end, "still answered"


def test_documented_setup_works_command_by_command(tmp_path: Path) -> None:
    """Run the five commands of docs/security.md as they are, in the service's and the subscriber's directories."""
    (block,) = re.findall(r"```sh\n(.*?)```", (DOCS / "security.md").read_text(), re.S)
    commands = [line for line in block.splitlines() if line and not line.startswith("#")]
    assert len(commands) == 5
    (yaml,) = re.findall(r"```yaml\n(.*?)```", (DOCS / "security.md").read_text(), re.S)
    make_brightness_bundle(tmp_path / "brightness")
    write_clip(tmp_path / "a.mp4", frames=60)
    with HubProcess() as hub:  # its ports are free afterwards
        ports = {"5555": hub.events.rpartition(":")[2], "5556": hub.replay.rpartition(":")[2]}
    for known, free in ports.items():
        yaml = yaml.replace(known, free)
        commands = [command.replace(known, free) for command in commands]
    commands = [command.replace("factory.example", "127.0.0.1") for command in commands]
    service_yaml = "model: brightness\nstreams: {a: {url: a.mp4, loop: true}}\n" + yaml
    (tmp_path / "service.yaml").write_text(service_yaml)
    assert load_config(tmp_path / "service.yaml").publish.events.startswith("tcp://0.0.0.0:")
    make_server, make_viewer, allow, run, subscribe_command = commands
    for command in (make_server, make_viewer, allow):
        _shell(command, tmp_path)
    assert run == "streamclf run service.yaml"
    with Service("run", "service.yaml", cwd=tmp_path) as service:
        service.wait_for_line("publishing on")
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        name = shlex.split(subscribe_command)[2]
        shutil.copy(next(tmp_path.rglob(name)), elsewhere)
        wait_until(lambda: count_events(tmp_path / "streamclf.db") > 0, "an event in the journal", 90)
        _shell(subscribe_command + " --once", elsewhere)
        assert count_events(elsewhere / "events.db") > 0
        for pid in [service.process.pid, *service.descendants()]:
            assert b"key_secret" not in Path(f"/proc/{pid}/cmdline").read_bytes()
        service.interrupt()
        assert service.wait() == 0
    secrets = [load_certificate(path).secret for path in tmp_path.rglob("*.key_secret")]
    for secret in secrets:
        assert secret is not None
        assert all(secret.decode() not in line for line in service.lines)


def count_events(db: Path) -> int:
    """Count the events of a journal or a log; 0 before it exists."""
    try:
        with contextlib.closing(sqlite3.connect(f"{db.as_uri()}?mode=ro", uri=True)) as connection:
            return int(connection.execute("SELECT count(*) FROM events").fetchone()[0])
    except sqlite3.OperationalError:
        return 0


def _shell(command: str, cwd: Path) -> None:
    module = f"{shlex.quote(sys.executable)} -m streamclf"
    result = subprocess.run(
        re.sub(r"^streamclf|(?<=&& )streamclf", module, command), shell=True, cwd=cwd, capture_output=True, timeout=60
    )
    assert result.returncode == 0, (command, result.stderr.decode())


def test_documented_program_with_plain_zeromq_connects(keyed: KeyedHub) -> None:
    """Run the program of docs/protocol.md that uses CURVE without this package."""
    keyed.client("viewer")
    (program,) = re.findall(r"```py\n(.*?)```", (DOCS / "protocol.md").read_text(), re.S)
    program = program.replace("tcp://127.0.0.1:5555", keyed.hub.events)
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=keyed.directory, capture_output=True, text=True, timeout=30
    )
    assert result.stdout == "heartbeat/\n", result.stderr
