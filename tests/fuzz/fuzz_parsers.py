"""Fuzz everything that reads bytes from outside, guided by coverage. CI does not run this.

    pip install atheris && PYTHONPATH=. python tests/fuzz/fuzz_parsers.py TARGET -max_total_time=120

TARGET is the name of a function in `TARGETS`. Each function may raise the errors that its callers expect. Any other
error ends the run and leaves the input in a file.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["streamclf"]):
    import zmq

    from streamclf.client.gaps import GapTracker
    from streamclf.client.replay import ReplayClient
    from streamclf.errors import ConfigError, EventError, UsageError
    from streamclf.events.positions import START, Position
    from streamclf.events.types import HEARTBEAT_TOPIC, Heartbeat, parse_event, to_json
    from streamclf.hub.guard.curve_gate import AllowList, CurveGate
    from streamclf.hub.journal import Journal, Record
    from streamclf.hub.journal_reader import JournalReader
    from streamclf.hub.link_server import LinkServer, ReceivedBatch
    from streamclf.hub.replay_server import ReplayServer, Request, answer
    from streamclf.net.curve_client import resolve_service_address
    from streamclf.net.curve_keys import load_certificate, make_keys

FOLDER = Path(tempfile.mkdtemp(prefix="fuzz-"))
CONTEXT: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
EPOCH = "ab" * 16


def event(data: bytes) -> None:
    """Parse a message of the live socket; an event must stay the same when it is serialised and parsed again."""
    try:
        found = parse_event(data)
    except EventError:
        return
    assert parse_event(to_json(found)) == found
    tracker = GapTracker(None, Position(EPOCH, 5))
    tracker.add_heartbeat(found) if isinstance(found, Heartbeat) else tracker.add_event(found)


def request(data: bytes) -> None:
    """Answer a request to the replay socket; there is always an answer, and its size is bounded."""
    frames = _SERVER._reply(data)
    assert 1 <= len(frames) <= 2000
    assert sum(map(len, frames)) < 4 << 20


def reply(data: bytes) -> None:
    """Parse a reply of the replay socket as a subscriber does."""
    frames = data.split(b"\n")
    try:
        page = _REPLAY_CLIENT._parse(frames)
    except EventError:
        return
    if page is not None:
        tracker = GapTracker(None, START)
        tracker.add_page(page)


def link(data: bytes) -> None:
    """Receive a message of a producer."""
    _LINK._handle([b"route", *data.split(b"\xfe")], ReceivedBatch())
    _LINK._producers.clear()
    _LINK._connections.clear()


def subscription(data: bytes) -> None:
    """Read a subscription message from the publisher's socket."""
    from streamclf.hub.publisher import _TOPIC, _preview_stream

    if _TOPIC.fullmatch(data[1:]):
        assert len(data) <= 81
    _preview_stream(data[1:])


def key_file(data: bytes) -> None:
    """Read a file as a key file."""
    path = FOLDER / "some.key_secret"
    path.write_bytes(data)
    path.chmod(0o600)
    for read in (load_certificate, resolve_service_address):
        _check_error_is_one_line(read, path, UsageError)


def zap(data: bytes) -> None:
    """Answer an authentication request of libzmq; only a complete, well-formed request may be accepted."""
    frames = _GATE._answer(data.split(b"\xfe"))
    assert frames[2] in (b"400", b"500")


def config(data: bytes) -> None:
    """Load a configuration file."""
    from streamclf.config.service import load_config

    path = FOLDER / "service.yaml"
    path.write_bytes(data)
    _check_error_is_one_line(lambda path: load_config(path, {}), path, ConfigError)


def _check_error_is_one_line(read: Callable[[Path], object], path: Path, kind: type[Exception]) -> None:
    try:
        read(path)
    except kind as error:
        text = str(error)
    else:
        return
    assert "\n" not in text


TARGETS = {each.__name__: each for each in (event, request, reply, link, subscription, key_file, zap, config)}

_EVENT = (
    b'{"v":1,"type":"prediction","stream":"door","epoch":"' + EPOCH.encode() + b'","offset":6,"previous":5,'
    b'"time":"2026-01-02T03:04:05.678901Z","window":{"start_s":1.0,"end_s":2.5,"frames":32},"top":[["wave",0.9]],'
    b'"model":"m@1","latency_ms":{"encode":5.2}}'
)
_HEARTBEAT = (
    b'{"v":1,"type":"heartbeat","epoch":"' + EPOCH.encode() + b'","time":"2026-01-02T03:04:05Z","head":9,"oldest":1,'
    b'"last":{"door":9},"replay":"tcp://127.0.0.1:1"}'
)
_REPLAY_REQUEST = (
    b'{"v":1,"request":"replay","id":"1","after":3,"limit":9,"streams":["door"],"types":["status"],"epoch":null}'
)
_PAGE = (
    b'{"v":1,"reply":"replay","id":"1","epoch":"' + EPOCH.encode() + b'","oldest":1,"head":9,"upto":9,"lost":[[1,2]]}\n'
)
_DRAFTS = b'[[1,"status","door",null,{"state":"live"}]]'
SEEDS: dict[str, tuple[bytes, ...]] = {
    "event": (_EVENT, _HEARTBEAT),
    "request": (_REPLAY_REQUEST, b'{"request":"snapshot"}'),
    "reply": (_PAGE + _EVENT,),
    "link": (
        b"\xfe".join([b"drafts", b"i" * 16, b"name", b"\0" * 8, _DRAFTS]),
        b"\xfe".join([b"hello", b"i" * 16, b"name", b'{"door":3}']),
        b"preview\xfedoor\xfejpeg",
    ),
    "subscription": (b"\1preview/door/", b"\0heartbeat/"),
    "key_file": (b'public-key = "' + b"a" * 40 + b'"\nsecret-key = "' + b"b" * 40 + b'"\nendpoint = "tcp://a:1"\n',),
    "zap": (b"\xfe".join([b"1.0", b"1", b"streamclf", b"127.0.0.1", b"", b"CURVE", b"k" * 32]),),
    "config": (b"streams: {a: {url: 'rtsp://h/x'}}\npublish: {keep: 7d, keep_size: 1GB}\n",),
}
"""Complete messages to begin with: the JSON parser is Rust code, whose coverage the fuzzer does not see."""

_JOURNAL = Journal(FOLDER / "journal.db", keep_s=3600)
_JOURNAL.append([Record("door", "status", lambda offset, previous: HEARTBEAT_TOPIC)] * 50, {})
_LINK = LinkServer(CONTEXT, f"ipc://{FOLDER}/link", _JOURNAL.sequence_of)
_SERVER = ReplayServer(CONTEXT, "tcp://127.0.0.1:*", FOLDER / "journal.db")
_SERVER.close()
_SERVER._reader = None
_REPLAY_CLIENT = ReplayClient(CONTEXT, "tcp://127.0.0.1:9", [])
_REPLAY_CLIENT._id, _REPLAY_CLIENT._requested = 1, START
(FOLDER / "allowed").mkdir()
_GATE = CurveGate(CONTEXT, load_certificate(make_keys(FOLDER, "server")[1], secret=True), AllowList(FOLDER / "allowed"))


def main() -> None:
    name = sys.argv.pop(1) if len(sys.argv) > 1 else ""
    if name not in TARGETS:
        sys.exit(f"usage: fuzz_parsers.py {'|'.join(TARGETS)} [libFuzzer's options]")
    assert answer(JournalReader(FOLDER / "journal.db"), Request(request="snapshot"))
    corpus = FOLDER / "corpus"
    corpus.mkdir()
    for number, seed in enumerate(SEEDS[name]):
        TARGETS[name](seed)
        (corpus / str(number)).write_bytes(seed)
    atheris.Setup([*sys.argv, str(corpus)], TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
