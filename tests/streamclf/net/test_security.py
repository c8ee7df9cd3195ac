"""Who gets in with CURVE, who does not, and that those who do not get nothing: looked at on the raw TCP stream."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
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
from streamclf.config.service import load_config, parse_config
from streamclf.errors import BusError, ConfigError, UsageError
from streamclf.events.positions import START
from streamclf.events.types import Heartbeat, Prediction
from streamclf.hub.guard.curve_gate import AllowList, CurveGate
from streamclf.hub.publisher import Publisher
from streamclf.net.curve_keys import load_certificate, make_keys
from streamclf.net.zeromq import bind, open_socket
from streamclf.producer.link import EventProducer
from streamclf.supervisor.preflight import preflight

DOCS = ROOT / "docs"
MARK = "strangers-must-not-read-this"


class Keyed:
    """A hub with keys, and what belongs to them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.allow = directory / "allowed"
        self.allow.mkdir()
        self.server, secret = make_keys(directory, "server")
        self.hub = HubProcess(keys=secret, allow=self.allow)

    def client(self, name: str, *, allowed: bool = True) -> Path:
        """The one file that a subscriber needs."""
        public, secret = make_keys(self.directory, name, service=self.server, endpoint=self.hub.events)
        if allowed:
            self.let_in(public)
        return secret

    def let_in(self, public: Path) -> None:
        shutil.copy(public, self.allow)


@pytest.fixture(autouse=True)
def short_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamclf.net.curve_client.REFUSED_S", 1.2)


@pytest.fixture
def keyed(tmp_path: Path) -> Iterator[Keyed]:
    keyed = Keyed(tmp_path)
    with keyed.hub:
        yield keyed


@pytest.fixture
def link(keyed: Keyed) -> Iterator[EventProducer]:
    with EventProducer(keyed.hub.link, "test") as link:
        yield link


class Posting:
    """Posts predictions all the time, each with its number and a mark to look for."""

    def __init__(self, link: EventProducer) -> None:
        self.posted = 0
        self._link = link
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Posting:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(0.005):
            self._link.post(prediction(number=self.posted, model=MARK))
            self.posted += 1


def next_prediction(events: Subscription, deadline_s: float = 15.0) -> Prediction:
    end = time.monotonic() + deadline_s
    while time.monotonic() < end:
        event = events.receive(0.2)
        if isinstance(event, Prediction):
            return event
    raise AssertionError("no prediction")


def refused(action: Callable[[], object]) -> str:
    with pytest.raises(BusError) as caught:
        action()
    return str(caught.value)


def listen_in_vain(endpoint: str | Path, keys: Path | None = None, server_key: Path | None = None) -> str:
    with subscribe(endpoint, keys=keys, server_key=server_key, patience_s=30) as events:
        return refused(lambda: next(iter(events)))


def test_one_file_is_all_that_a_subscriber_needs_for_events_and_replay(keyed: Keyed, link: EventProducer) -> None:
    for number in range(50):
        link.post(prediction(number=number))
    wait_until(lambda: link.unacknowledged == 0, "confirmation")
    with subscribe(keyed.client("viewer"), replay=True, after=START) as events:
        assert [next_prediction(events).offset for _ in range(50)] == list(range(1, 51))
        link.post(prediction())
        assert next_prediction(events).offset == 51
        assert events.snapshot().head == 51


def test_what_goes_over_the_wire_cannot_be_read(keyed: Keyed, link: EventProducer) -> None:
    secret = keyed.client("viewer")
    with (
        RecordingRelay(keyed.hub.events) as tap,
        Posting(link),
        subscribe(tap.endpoint, keys=secret, types=["prediction"]) as events,
    ):
        for _ in range(20):
            assert next_prediction(events).model == MARK
        assert len(tap.from_service) > 20 * 400
        for word in (MARK.encode(), b"prediction", b"heartbeat", b"offset"):
            assert word not in tap.from_service


@pytest.mark.parametrize("mechanism", [b"NULL", b"PLAIN", b"CURVE"])
def test_a_stranger_gets_no_byte_of_an_event(keyed: Keyed, link: EventProducer, mechanism: bytes) -> None:
    shakes = {
        b"NULL": ready(b"SUB"),
        b"PLAIN": frame(b"\x05HELLO\x05admin\x05admin", flags=4) + frame(b"\x08INITIATE", flags=4),
        b"CURVE": frame(b"\x05HELLO" + b"\x01\x00" + os.urandom(192), flags=4),
    }
    with Posting(link), connect(keyed.hub.events) as events, connect(keyed.hub.replay) as replay:
        for peer in (events, replay):
            peer.sendall(greeting(mechanism) + shakes[mechanism])
            with contextlib.suppress(ConnectionError):
                peer.sendall(frame(b"\1") + frame(b"", flags=1) + frame(b'{"v":1,"request":"snapshot"}'))
            heard = receive_until_quiet(peer, 0.7)
            assert len(heard) <= 64, "more than ZeroMQ's greeting"
            assert MARK.encode() not in heard


@pytest.mark.parametrize("wrong", ["no keys", "not on the list", "other service"])
def test_who_is_not_let_in_is_told_why_and_gets_nothing(keyed: Keyed, link: EventProducer, wrong: str) -> None:
    other_public, _ = make_keys(keyed.directory, "other")
    with RecordingRelay(keyed.hub.events) as tap, Posting(link):
        if wrong == "no keys":
            error = listen_in_vain(tap.endpoint)
            assert "refuses clients without keys" in error
        elif wrong == "not on the list":
            secret = keyed.client("viewer", allowed=False)
            error = listen_in_vain(tap.endpoint, secret)
            assert "does not know the key" in error
            assert "publish.allow" in error
        else:
            secret = keyed.client("viewer")
            error = listen_in_vain(tap.endpoint, secret, other_public)
            assert "the service's key is not the one" in error
        assert tap.endpoint in error
        assert "secret-key" not in error
        # Greetings, cookies and refusals of some attempts; an event alone has 400 bytes, and 5 ms later comes the next.
        assert len(tap.from_service) < 100 * 500
        assert MARK.encode() not in tap.from_service
        assert b"offset" not in tap.from_service
    context = zmq.Context()
    with context, context.socket(zmq.REQ) as replay:
        replay.linger = 0
        replay.connect(keyed.hub.replay)
        replay.send(b'{"request":"snapshot"}')
        assert not replay.poll(500)


def test_keys_for_a_service_without_are_told(tmp_path: Path) -> None:
    server, _ = make_keys(tmp_path, "server")
    _, secret = make_keys(tmp_path, "viewer", service=server)
    with HubProcess() as hub:
        assert "does not use keys" in listen_in_vain(hub.events, secret)


def test_the_list_is_followed_while_the_hub_runs_and_nobody_else_notices(keyed: Keyed, link: EventProducer) -> None:
    good, late = keyed.client("good"), keyed.client("late", allowed=False)
    with Posting(link) as posting, subscribe(good, types=["prediction"]) as plain:
        first = next_prediction(plain)
        with subscribe(late, types=["prediction"]) as events:
            assert events.receive(1.5) is None
            keyed.let_in(keyed.directory / "late.key")
            next_prediction(events)
            (keyed.allow / "late.key").unlink()
            removed_at = time.monotonic()
            message = refused(lambda: list(events))
            assert "does not know the key" in message
            assert time.monotonic() - removed_at < 15
        wait_until(lambda: posting.posted > 400, "more events", 20)
        seen = [int(first.window.start_s)]
        while seen[-1] < 400:
            seen.append(int(next_prediction(plain).window.start_s))
    assert seen == list(range(seen[0], seen[-1] + 1))
    assert plain.missed == 0


def test_a_revoked_key_is_cut_off_replay_too(keyed: Keyed) -> None:
    secret = load_certificate(keyed.client("viewer"), secret=True)
    context = zmq.Context()
    with context, context.socket(zmq.DEALER) as peer:
        peer.linger = 0
        peer.curve_publickey, peer.curve_secretkey, peer.curve_serverkey = secret.public, secret.secret, secret.server
        peer.connect(keyed.hub.replay)
        peer.send(b'{"request":"snapshot"}')
        assert peer.poll(5000)
        peer.recv_multipart()
        (keyed.allow / "viewer.key").unlink()
        end = time.monotonic() + 3.0
        while time.monotonic() < end:
            peer.send(b'{"request":"snapshot"}')
            if not peer.poll(500):
                break
            peer.recv_multipart()
        assert time.monotonic() < end, "still answered"


def test_nobody_gets_in_when_the_gate_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamclf.net.curve_client.REFUSED_S", 60.0)
    (tmp_path / "allowed").mkdir()
    server, server_secret = make_keys(tmp_path, "server")
    public, secret = make_keys(tmp_path, "viewer", service=server)
    shutil.copy(public, tmp_path / "allowed")
    context = zmq.Context()
    gate = CurveGate(context, load_certificate(server_secret, secret=True), AllowList(tmp_path / "allowed"))
    publisher = Publisher(context, "tcp://127.0.0.1:*", gate=gate)
    gate.close()
    with subscribe(publisher.endpoint, keys=secret) as events:
        end = time.monotonic() + 1.5
        while time.monotonic() < end:
            publisher.receive_subscriptions()
            publisher.send(b"heartbeat/", b"{}")
            assert events.receive(0.05) is None
            assert events.refused == 0, "something came through"
    assert not publisher.has_new_subscriber
    publisher.close()
    context.term()


def test_a_list_that_cannot_be_read_allows_nobody_and_bad_files_stop_no_good_one(tmp_path: Path) -> None:
    allowed = tmp_path / "allowed"
    _, secret = make_keys(allowed, "good")
    certificate = load_certificate(secret)
    (allowed / "notes.key").write_text("roses are red")
    (allowed / "huge.key").write_bytes(b"x" * 100_000)
    (allowed / "dangling.key").symlink_to("nowhere")
    allow = AllowList(allowed)
    assert allow.name_of(certificate.public) == "good"
    assert len(allow) == 1
    shutil.rmtree(allowed)
    wait_until(lambda: allow.name_of(certificate.public) is None, "nobody")


def test_key_files_are_private_are_not_overwritten_and_pyzmq_reads_them(tmp_path: Path) -> None:
    public, secret = make_keys(tmp_path / "keys", "viewer")
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "keys").stat().st_mode) == 0o700
    before = secret.read_bytes()
    with pytest.raises(UsageError, match="--force"):
        make_keys(tmp_path / "keys", "viewer")
    assert secret.read_bytes() == before
    assert zmq.auth.load_certificate(secret) == (zmq.auth.load_certificate(public)[0], load_certificate(secret).secret)
    make_keys(tmp_path / "keys", "viewer", force=True)
    assert secret.read_bytes() != before
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    hidden = load_certificate(secret).secret
    assert hidden is not None
    assert hidden.decode() not in repr(load_certificate(secret))


@pytest.mark.parametrize("name", ["../../etc/passwd", "", "a b", "x" * 65, "a\nb"])
def test_a_name_of_keys_is_not_a_path(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="letters, digits"):
        make_keys(tmp_path, name)
    assert list(tmp_path.iterdir()) == []


def test_key_files_that_cannot_be_used_are_one_line_without_the_secret(tmp_path: Path) -> None:
    public, secret = make_keys(tmp_path, "viewer")
    _, other = make_keys(tmp_path, "other")
    text = secret.read_text()
    hidden = load_certificate(secret).secret
    assert hidden is not None
    with pytest.raises(UsageError, match="public key only"):
        load_certificate(public, secret=True)
    with pytest.raises(UsageError, match="cannot be read"):
        load_certificate(tmp_path / "missing")
    secret.chmod(0o644)
    with pytest.raises(UsageError, match="chmod 600"):
        load_certificate(secret, secret=True)
    secret.chmod(0o600)
    wrong = re.sub(r'public-key = "[^"]*"', f'public-key = "{load_certificate(other).public.decode()}"', text)
    for content, message in [
        (wrong, "do not belong together"),
        (text.replace(hidden.decode(), hidden.decode()[:-1]), "no secret-key of 40"),
        (text.replace(hidden.decode(), "#" * 40), "no secret-key"),  # found by the fuzzer: more than 32 bits
        ("x" * 100_000, "more than"),
        ("", "no public-key"),
    ]:
        secret.write_text(content)
        with pytest.raises(UsageError, match=message) as caught:
            load_certificate(secret, secret=True)
        assert hidden.decode()[:-1] not in str(caught.value)
        assert "\n" not in str(caught.value)


def test_what_a_subscriber_forgot_is_named(tmp_path: Path) -> None:
    server, _ = make_keys(tmp_path, "server")
    _, bare = make_keys(tmp_path, "bare")
    _, nowhere = make_keys(tmp_path, "nowhere", service=server)
    for arguments, message in [
        ({"endpoint": tmp_path / "missing.key_secret"}, "a file made by"),
        ({"endpoint": nowhere}, "names no endpoint"),
        ({"endpoint": "tcp://127.0.0.1:9", "keys": bare}, "names no service"),
        ({"endpoint": "tcp://127.0.0.1:9", "server_key": server}, "only together with keys"),
    ]:
        with pytest.raises(UsageError, match=message):
            subscribe(**arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("endpoint", ["tcp://0.0.0.0:*", "tcp://[::]:*"])
def test_the_network_is_open_to_those_with_keys_only(tmp_path: Path, endpoint: str) -> None:
    if "[" in endpoint and not Path("/proc/net/if_inet6").exists():
        pytest.skip("no IPv6 here")
    (tmp_path / "allowed").mkdir()
    _, secret = make_keys(tmp_path, "server")
    context = zmq.Context()
    with pytest.raises(BusError, match=r"publish\.keys and publish\.allow"):
        Publisher(context, endpoint)
    gate = CurveGate(context, load_certificate(secret, secret=True), AllowList(tmp_path / "allowed"))
    publisher = Publisher(context, endpoint, gate=gate)
    assert int(publisher.endpoint.rpartition(":")[2]) > 0
    publisher.close()
    gate.close()
    context.term()


def test_an_ipc_socket_is_refused_where_others_may_go(tmp_path: Path) -> None:
    context = zmq.Context()
    with context, tempfile.TemporaryDirectory() as directory, open_socket(context, zmq.XPUB, max_bytes=100) as socket:
        Path(directory).chmod(0o755)
        with pytest.raises(BusError, match=r"mode 0755.*mkdir -m 700"):
            bind(socket, f"ipc://{directory}/events", "publish.events")
        for anybodys in ("ipc://@events", "ipc://*"):
            with pytest.raises(BusError, match="any user could open"):
                bind(socket, anybodys, "publish.events")
        Path(directory).chmod(0o700)
        bind(socket, f"ipc://{directory}/events", "publish.events")


@pytest.mark.parametrize(
    ("publish", "message"),
    [
        ({"events": "tcp://0.0.0.0:5555"}, r"publish\.events=tcp://0\.0\.0\.0:5555: anybody in the network"),
        ({"replay": "tcp://*:5556"}, r"publish\.replay=.*publish\.allow"),
        ({"keys": "server.key_secret"}, "keys and allow go together"),
        ({"keys": "server.key", "allow": "allowed"}, r"publish\.keys=.*public key only"),
        ({"keys": "server.key_secret", "allow": "nowhere"}, r"publish\.allow=.*create it"),
        ({"keep_size": "10"}, r"keep_size=10: .*10GB"),
        ({"keep_size": "5B"}, "10GB"),
    ],
)
def test_a_configuration_that_would_let_strangers_in_is_refused(
    tmp_path: Path, publish: dict[str, str], message: str
) -> None:
    make_keys(tmp_path, "server")
    (tmp_path / "allowed").mkdir()
    (tmp_path / "a.mp4").touch()
    raw = {"streams": {"a": {"url": "a.mp4"}}, "publish": publish}
    with pytest.raises(ConfigError, match=message):
        preflight(parse_config(raw, base=tmp_path, origin="service.yaml"))


def test_a_journals_size_is_kept_by_the_hub(tmp_path: Path) -> None:
    raw = {"streams": {"a": {"camera": 0}}, "publish": {"keep_size": "1MB"}}
    publish = parse_config(raw, base=tmp_path, origin="x").publish
    assert publish.keep_size == 1_000_000
    with HubProcess(keep_bytes=publish.keep_size) as hub, EventProducer(hub.link, "test") as link:
        with subscribe(hub.events, types=["heartbeat"]) as events:
            for number in range(3000):
                link.post(prediction(number=number))
                if number % 1000 == 999:
                    wait_until(lambda: link.unacknowledged == 0, "confirmation", 30)
            oldest = 1
            end = time.monotonic() + 20
            while oldest == 1:
                assert time.monotonic() < end, "nothing was removed"
                beat = events.receive(1.0)
                oldest = beat.oldest if isinstance(beat, Heartbeat) else oldest
        assert 1 < oldest <= 3000


def test_the_documented_setup_works_command_by_command(tmp_path: Path) -> None:
    """docs/security.md: five commands, run as they stand there, in the service's and the subscriber's directories."""
    (block,) = re.findall(r"```sh\n(.*?)```", (DOCS / "security.md").read_text(), re.S)
    commands = [line for line in block.splitlines() if line and not line.startswith("#")]
    assert len(commands) == 5
    (yaml,) = re.findall(r"```yaml\n(.*?)```", (DOCS / "security.md").read_text(), re.S)
    make_brightness_bundle(tmp_path / "brightness")
    write_clip(tmp_path / "a.mp4", frames=60)
    with HubProcess() as lender:  # ports that are free now
        ports = {"5555": lender.events.rpartition(":")[2], "5556": lender.replay.rpartition(":")[2]}
    for known, free in ports.items():
        yaml = yaml.replace(known, free)
        commands = [command.replace(known, free) for command in commands]
    commands = [command.replace("factory.example", "127.0.0.1") for command in commands]
    service_yaml = "model: brightness\nstreams: {a: {url: a.mp4, loop: true}}\n" + yaml
    (tmp_path / "service.yaml").write_text(service_yaml)
    assert load_config(tmp_path / "service.yaml").publish.events.startswith("tcp://0.0.0.0:")
    make_server, make_viewer, let_in, run, subscribe_command = commands
    for command in (make_server, make_viewer, let_in):
        _shell(command, tmp_path)
    assert run == "streamclf run service.yaml"
    with Service("run", "service.yaml", cwd=tmp_path) as service:
        service.wait_for_line("publishing on")
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        name = shlex.split(subscribe_command)[2]
        shutil.copy(next(tmp_path.rglob(name)), elsewhere)
        time.sleep(1.0)
        _shell(subscribe_command + " --once", elsewhere)
        assert (elsewhere / "events.db").stat().st_size > 0
        for pid in [service.process.pid, *service.descendants()]:
            assert b"key_secret" not in Path(f"/proc/{pid}/cmdline").read_bytes()
        service.interrupt()
        assert service.wait() == 0
    secrets = [load_certificate(path).secret for path in tmp_path.rglob("*.key_secret")]
    for secret in secrets:
        assert secret is not None
        assert all(secret.decode() not in line for line in service.lines)


def _shell(command: str, cwd: Path) -> None:
    module = f"{shlex.quote(sys.executable)} -m streamclf"
    result = subprocess.run(
        re.sub(r"^streamclf|(?<=&& )streamclf", module, command), shell=True, cwd=cwd, capture_output=True, timeout=60
    )
    assert result.returncode == 0, (command, result.stderr.decode())


def test_the_documented_program_of_another_library_connects(keyed: Keyed) -> None:
    """docs/protocol.md: CURVE without our package."""
    keyed.client("viewer")
    (program,) = re.findall(r"```py\n(.*?)```", (DOCS / "protocol.md").read_text(), re.S)
    program = program.replace("tcp://127.0.0.1:5555", keyed.hub.events)
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=keyed.directory, capture_output=True, text=True, timeout=30
    )
    assert result.stdout == "heartbeat/\n", result.stderr
