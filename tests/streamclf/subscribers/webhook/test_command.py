"""Webhooks: signed, in order, repeated until taken, and what is refused for good is kept and counted."""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from support.certificates import make_certificate, server_context
from support.hub_process import HubProcess, action, prediction, wait_until
from support.receiver import Receiver, Request, Say
from support.repository import ROOT
from support.service import Service

from streamclf.errors import JournalError, UsageError
from streamclf.events.types import Action, Lost
from streamclf.net.backoff import Backoff
from streamclf.producer.link import EventProducer
from streamclf.runtime.stop_request import StopRequest
from streamclf.subscribers.webhook import command
from streamclf.subscribers.webhook.command import (
    DeadLetters,
    Webhook,
    checked_type,
    read_secret,
    run_webhook,
    signature,
)
from streamclf.subscribers.webhook.http_post import MAX_RETRY_AFTER_S, Answer, Poster, UnreachableError, parse_target

EPOCH = "9f" * 16
NOW = datetime(2026, 1, 31, 12, 0, 0, tzinfo=timezone.utc)
SECRET = "0123456789abcdef-of-the-webhook"


def acted(offset: int | None) -> Action:
    return Action(
        stream="door", epoch=EPOCH, offset=offset, previous=0, time=NOW, label="wave", phase="start",
        started_s=1.0, at_s=2.0, probability=0.9, peak=0.95, durable=offset is not None,
    )  # fmt: skip


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


class Naps(StopRequest):
    """Notes how long it is asked to wait, and does not."""

    def __init__(self) -> None:
        super().__init__()
        self.asked_s: list[float] = []

    def wait(self, seconds: float) -> bool:
        self.asked_s.append(seconds)
        return self.is_set


@contextmanager
def made(receiver: Receiver, folder: Path, stop: StopRequest, *, batched: bool = False) -> Iterator[Webhook]:
    target = parse_target(receiver.url)
    with closing(Poster(target, stop)) as poster:
        yield Webhook(target, poster, DeadLetters(folder / "dead"), stop, secret=SECRET.encode(), batched=batched)


def verify(request: Request, secret: bytes, *, now_s: float) -> bool:
    """As docs/outlets.md tells a receiver to."""
    timestamp = request.headers["X-Streamclf-Timestamp"]
    if abs(now_s - int(timestamp)) > 300:
        return False
    expected = "sha256=" + hmac.new(secret, timestamp.encode() + b"." + request.body, hashlib.sha256).hexdigest()
    return hmac.compare_digest(expected, request.headers["X-Streamclf-Signature"])


def test_one_event_a_request_with_a_signature_that_holds_for_this_body_and_time_alone(
    receiver: Receiver, tmp_path: Path
) -> None:
    with made(receiver, tmp_path, Naps()) as outlet:
        assert outlet.deliver([acted(7)], None)
    (request,) = receiver.taken
    assert request.json["offset"] == 7
    assert request.json["phase"] == "start"
    assert request.headers["Idempotency-Key"] == f"{EPOCH}-7"
    assert request.headers["Content-Type"] == "application/json"
    now_s = time.time()
    assert verify(request, SECRET.encode(), now_s=now_s)
    assert not verify(request, b"another secret of 16", now_s=now_s)
    assert not verify(request, SECRET.encode(), now_s=now_s + 301)
    assert not verify(Request(request.path, request.headers, request.body + b" "), SECRET.encode(), now_s=now_s)
    later = {**request.headers, "X-Streamclf-Timestamp": str(int(now_s) + 60)}
    assert not verify(Request(request.path, later, request.body), SECRET.encode(), now_s=now_s)


def test_the_documented_receivers_tell_a_genuine_request_from_a_forged_one() -> None:
    text = (ROOT / "docs" / "outlets.md").read_text()
    names: dict[str, Any] = {}
    exec(re.findall(r"```python\n(.*?)```", text, re.DOTALL)[0], names)  # our own documentation
    script = re.findall(r"```js\n(.*?)```", text, re.DOTALL)[0]
    now, body = int(time.time()), b'{"v":1}'
    requests = [
        (str(now), signature(SECRET.encode(), now, body), True),
        (str(now), signature(b"x" * 16, now, body), False),
        (str(now), "sha256=", False),
        (str(now - 301), signature(SECRET.encode(), now - 301, body), False),
        (str(now + 1), signature(SECRET.encode(), now, body), False),
        ("soon", signature(SECRET.encode(), now, body), False),
    ]
    for at, given, is_genuine in requests:
        headers = {"X-Streamclf-Timestamp": at, "X-Streamclf-Signature": given}
        assert names["is_genuine"](headers, body, SECRET.encode()) is is_genuine
        lower = json.dumps({name.lower(): value for name, value in headers.items()})
        script += f"console.log(isGenuine({lower}, Buffer.from({json.dumps(body.decode())}), {json.dumps(SECRET)}));\n"
    if node := shutil.which("node"):
        out = subprocess.run([node, "-e", script], check=True, capture_output=True, timeout=30, text=True).stdout
        assert out.split() == [str(is_genuine).lower() for _, _, is_genuine in requests]


def test_a_batch_is_one_request_and_lost_offsets_are_told(receiver: Receiver, tmp_path: Path) -> None:
    with made(receiver, tmp_path, Naps(), batched=True) as outlet:
        assert outlet.deliver([acted(7), Lost(epoch=EPOCH, first=8, last=9), acted(None), acted(10)], None)
        assert outlet.deliver([acted(11)], None)
    first, second = receiver.taken
    assert [event.get("offset") for event in first.json["events"]] == [7, None, None, 10]
    assert first.json["events"][1] == {"v": 1, "type": "lost", "epoch": EPOCH, "first": 8, "last": 9}
    assert first.headers["Idempotency-Key"] == f"{EPOCH}-7+{EPOCH}-10"
    assert (second.headers["Idempotency-Key"], len(second.json["events"])) == (f"{EPOCH}-11", 1)


@pytest.mark.parametrize("status", [500, 503, 429, 408, 0])
def test_what_may_pass_is_tried_again_with_growing_waits(receiver: Receiver, tmp_path: Path, status: int) -> None:
    receiver.answer = lambda request: Say(status if len(receiver.requests) < 9 else 204)
    naps = Naps()
    with made(receiver, tmp_path, naps) as outlet:
        assert outlet.deliver([acted(7)], None)
    assert len({request.headers["Idempotency-Key"] for request in receiver.requests}) == 1
    assert len(naps.asked_s) >= 5
    assert naps.asked_s[0] < 1 < naps.asked_s[4] < 60 * 1.2
    assert all(later > earlier for earlier, later in zip(naps.asked_s[:5], naps.asked_s[1:5], strict=False))
    assert not (tmp_path / "dead").exists()


def test_waits_end_at_a_minute_and_differ() -> None:
    patience = [command._Patience() for _ in range(2)]
    waits = [[each.next_s() for _ in range(40)] for each in patience]
    assert waits[0] != waits[1]
    assert max(waits[0]) <= 72
    assert min(waits[0][10:]) >= 48
    assert isinstance(patience[0], Backoff)


@pytest.mark.parametrize(
    ("asked", "least", "most"),
    [
        ("7", 7, 7),
        ("999999999", MAX_RETRY_AFTER_S, MAX_RETRY_AFTER_S),
        ("in 900 s", 800, 900),
        (format_datetime(datetime(2020, 1, 1, tzinfo=timezone.utc)), 0, 1),
        ("soon", 0, 1),
        ("-5", 0, 1),
    ],
)
def test_the_receiver_may_ask_for_a_longer_wait(
    receiver: Receiver, tmp_path: Path, asked: str, least: float, most: float
) -> None:
    if asked == "in 900 s":  # a date, which must not be older than the test
        asked = format_datetime(datetime.now(timezone.utc) + timedelta(seconds=900))
    receiver.answer = lambda request: Say(200) if receiver.requests else Say(503, {"Retry-After": asked})
    naps = Naps()
    with made(receiver, tmp_path, naps) as outlet:
        assert outlet.deliver([acted(7)], None)
    assert least <= naps.asked_s[0] <= most


@pytest.mark.parametrize("status", [400, 404, 410, 301, 307])
def test_what_is_refused_for_good_is_kept_with_the_reason_and_holds_up_nothing(
    receiver: Receiver, tmp_path: Path, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    receiver.answer = lambda request: Say(
        status if request.json["offset"] == 8 else 200, {"Location": f"{receiver.url}/elsewhere"}
    )
    with made(receiver, tmp_path, Naps()) as outlet:
        assert all(outlet.deliver([acted(offset)], None) for offset in (7, 8, 9))
    assert [request.json["offset"] for request in receiver.taken] == [7, 9]
    assert {request.path for request in receiver.requests} == {"/hook"}  # a redirect is not followed
    (line,) = (tmp_path / "dead").read_text().splitlines()
    kept = json.loads(line)
    assert (kept["status"], kept["key"], kept["body"]["offset"]) == (status, f"{EPOCH}-8", 8)
    assert (tmp_path / "dead").stat().st_mode & 0o077 == 0
    assert outlet.refused == 1
    assert f": {status} " in capsys.readouterr().err


def test_one_bad_event_does_not_take_its_batch_along(receiver: Receiver, tmp_path: Path) -> None:
    receiver.answer = lambda request: Say(422 if 8 in [e["offset"] for e in request.json["events"]] else 200)
    with made(receiver, tmp_path, Naps(), batched=True) as outlet:
        assert outlet.deliver([acted(7), acted(8), acted(9)], None)
    assert [e["offset"] for request in receiver.taken for e in request.json["events"]] == [7, 9]
    assert outlet.refused == 1


def test_dead_letters_without_end_end_it_with_a_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "MAX_DEAD_BYTES", 2000)
    letters = DeadLetters(tmp_path / "dead")
    letter = command._Letter("key", b'"' + b"x" * 800 + b'"')
    target = parse_target("http://127.0.0.1:1/")
    letters.keep(target, letter, Answer(400, "Bad"))
    letters.keep(target, letter, Answer(400, "Bad"))
    with pytest.raises(JournalError, match="move this file away"):
        letters.keep(target, letter, Answer(400, "Bad"))
    assert len(letters.path.read_text().splitlines()) == 2


def test_a_receiver_that_sends_for_ever_meets_the_deadline(receiver: Receiver) -> None:
    receiver.answer = lambda request: Say(200, drip=True)
    with (
        closing(Poster(parse_target(receiver.url), Naps(), timeout_s=0.5)) as poster,
        pytest.raises(UnreachableError, match=r"no complete answer within 0\.5 s"),
    ):
        poster.post(b"{}", {})


def test_a_connection_closed_while_idle_is_made_again_without_a_word(receiver: Receiver) -> None:
    with closing(Poster(parse_target(receiver.url), Naps())) as poster:
        assert poster.post(b"{}", {}).status == 200
        receiver.stop()
        with pytest.raises(UnreachableError):
            poster.post(b"{}", {})
        receiver.start()
        assert poster.post(b"{}", {}).status == 200


@pytest.mark.parametrize(
    "url",
    ["", "ftp://h/", "file:///etc/passwd", "http://", "http://h:x/s3cret", "http://h/a b?s3cret", "http://h/\n", "h/p"],
)
def test_only_http_is_taken_and_a_wrong_url_is_not_shown(url: str) -> None:
    with pytest.raises(UsageError, match="give http://host") as refused:
        parse_target(url)
    assert "s3cret" not in str(refused.value)


def test_a_target_is_shown_without_what_may_be_secret() -> None:
    target = parse_target("https://user:s3cret-pw@[::1]/s3cret-path?token=s3cret")
    assert str(target) == "https://[::1]:443"
    assert "s3cret" not in repr(target)
    assert target.authorization is not None
    assert target.authorization.startswith("Basic ")


def test_arguments_that_cannot_work_name_value_limit_and_remedy(tmp_path: Path) -> None:
    (tmp_path / "short").write_text("123\n")
    with pytest.raises(UsageError, match="a secret of 3 bytes; 16 to 4096"):
        read_secret(tmp_path / "short")
    with pytest.raises(UsageError, match="cannot be read"):
        read_secret(tmp_path / "none")
    with pytest.raises(UsageError, match="'heartbeat': one of prediction, action, status"):
        checked_type("heartbeat")
    with pytest.raises(UsageError, match="batch=0: 1 to 1000"):
        run_webhook("tcp://127.0.0.1:1", "http://h/", position=tmp_path / "p", batch=0)


@pytest.fixture
def hub() -> Iterator[HubProcess]:
    with HubProcess() as hub:
        yield hub


def start(hub: HubProcess, url: str, folder: Path, *more: str, **env: str) -> Service:
    (folder / "secret").write_text(SECRET + "\n")
    arguments = ["webhook", hub.events, "--secret-file", "secret", *more]
    return Service(*arguments, cwd=folder, env={"STREAMCLF_WEBHOOK_URL": url, **env})


def first_arrivals(receiver: Receiver) -> list[Any]:
    """Each event once, in the order of its first arrival; `Idempotency-Key` tells the repetitions."""
    found = {request.headers["Idempotency-Key"]: request.json["at_s"] for request in list(receiver.taken)}
    return list(found.values())


def test_killed_without_a_word_and_with_the_receiver_away_every_action_arrives_in_order(
    hub: HubProcess, tmp_path: Path, receiver: Receiver
) -> None:
    expected: list[float] = []
    position = tmp_path / "webhook.position"

    def act(count: int) -> None:
        for _ in range(count):
            expected.append(float(len(expected)))
            link.post(action("end" if len(expected) % 2 == 0 else "start", at_s=expected[-1]))
            link.post(prediction())

    url = receiver.url.replace("://", "://someone:pass-in-url@") + "/path-secret"
    with EventProducer(hub.link, "test") as link:
        with start(hub, url, tmp_path) as first:
            wait_until(position.exists, "the first position", 20)
            act(30)
            receiver.wait_for(lambda: len(first_arrivals(receiver)) == 30, "30 actions")
            receiver.answer = lambda request: Say(503)
            act(10)
            first.wait_for_line("503")
            first.process.kill()
            first.wait()
        receiver.stop()
        act(10)
        with start(hub, url, tmp_path) as second:
            second.wait_for_line("Connection refused.*nothing is lost")
            receiver.answer = lambda request: Say(400 if request.json["at_s"] == 45.0 else 200)
            receiver.start()
            receiver.wait_for(lambda: len(first_arrivals(receiver)) == 49, "all but one")
            act(10)
            receiver.wait_for(lambda: len(first_arrivals(receiver)) == 59, "all but one")
            second.interrupt()
            assert second.wait() == 0
    assert first_arrivals(receiver) == [at_s for at_s in expected if at_s != 45.0]
    assert len(receiver.taken) <= 60  # a kill repeats one at most
    (line,) = (tmp_path / "webhook.position.dead.jsonl").read_text().splitlines()
    assert json.loads(line)["body"]["at_s"] == 45.0
    assert all(verify(request, SECRET.encode(), now_s=time.time()) for request in receiver.taken)
    output = "\n".join(first.lines + second.lines)
    assert re.search("1 refused for good", output)
    for secret in (SECRET, "pass-in-url", "path-secret", receiver.taken[0].headers["Authorization"][6:]):
        assert secret not in output


def test_what_the_journal_no_longer_has_is_said_told_and_counted(tmp_path: Path, receiver: Receiver) -> None:
    with HubProcess() as hub:
        with EventProducer(hub.link, "test") as link, start(hub, receiver.url, tmp_path) as first:
            wait_until((tmp_path / "webhook.position").exists, "the first position", 20)
            link.post(action("start"))
            receiver.wait_for(lambda: len(receiver.taken) == 1, "an action")
            first.interrupt()
            assert first.wait() == 0
        hub.kill()
        for file in hub.directory.glob("journal*"):
            file.unlink()
        hub.start()
        with EventProducer(hub.link, "test") as link, start(hub, receiver.url, tmp_path) as second:
            link.post(action("start"))
            receiver.wait_for(lambda: len(receiver.taken) == 3, "what is lost, and an action")
            second.interrupt()
            assert second.wait() == 0
    assert [request.json["type"] for request in receiver.taken] == ["action", "lost", "action"]
    assert "1 ranges lost" in second.lines[-1]
    assert any("lost: offsets 2 to an unknown offset" in line for line in second.lines)


def test_https_with_a_certificate_that_is_trusted_from_the_beginning_of_the_journal(
    hub: HubProcess, tmp_path: Path
) -> None:
    pem = make_certificate(tmp_path, "receiver")
    with EventProducer(hub.link, "test") as link:
        for number in range(5):
            link.post(action("start", at_s=float(number)))
        wait_until(lambda: link.unacknowledged == 0, "confirmation")
    with Receiver(tls=server_context(pem)) as receiver:
        more = ("--from-start", "--batch", "100")
        with start(hub, receiver.url, tmp_path, *more) as outlet:
            outlet.wait_for_line("(?i)certificate")
        with start(hub, receiver.url, tmp_path, *more, SSL_CERT_FILE=str(pem)):
            receiver.wait_for(lambda: bool(receiver.taken), "a batch")
            events = [event for request in receiver.taken for event in request.json["events"]]
            assert [event["at_s"] for event in events][:1] == [0.0]
