"""`streamclf webhook` signs events, repeats them in order until they are accepted, and keeps the refused ones."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from support.certificates import make_certificate, server_context
from support.clip_events import CLIP_STEM, clip_event, store_picture
from support.full_disk import files_of_at_most
from support.hub_process import HubProcess, action, prediction, status, wait_until
from support.preview_camera import PreviewCamera
from support.receiver import Receiver, Request, Response
from support.repository import ROOT
from support.service import Service

from streamclf.config.outlet_options import WebhookConfig
from streamclf.config.outlets import outlet_options
from streamclf.config.picture_keys import PictureKeys
from streamclf.errors import JournalError, UsageError
from streamclf.events.types import Action, Lost
from streamclf.net.http_target import parse_target
from streamclf.net.secret_files import read_secret
from streamclf.producer.link import EventProducer
from streamclf.runtime.stop_request import StopRequest
from streamclf.subscribers.clip_pictures import ClipPictures
from streamclf.subscribers.outlet_report import OutletReport
from streamclf.subscribers.webhook import command, dead_letters
from streamclf.subscribers.webhook.command import WebhookBackoff, WebhookOutlet, signature
from streamclf.subscribers.webhook.dead_letters import DeadLetters, RequestContent
from streamclf.subscribers.webhook.http_post import MAX_RETRY_AFTER_S, Answer, Poster

EPOCH = "9f" * 16
NOW = datetime(2026, 1, 31, 12, 0, 0, tzinfo=timezone.utc)
SECRET = "0123456789abcdef-of-the-webhook"


def action_event(offset: int | None) -> Action:
    return Action(
        stream="door", epoch=EPOCH, offset=offset, previous=0, time=NOW, label="wave", phase="start",
        started_s=1.0, at_s=2.0, probability=0.9, peak=0.95, durable=offset is not None,
    )  # fmt: skip


def test_equal_actions_of_two_views_are_two_requests_that_name_them() -> None:
    views: list[dict[str, Any]] = [{}, {"region": "gate"}, {"region": "gate", "model_name": "hands"}]
    found = [replace(action_event(offset), **view) for offset in (7, None) for view in views]
    bodies = [json.loads(command._body(each)) for each in found]
    assert [(body.get("region"), body.get("model_name")) for body in bodies[:3]] == [
        (None, None), ("gate", None), ("gate", "hands"),
    ]  # fmt: skip
    assert "region" not in bodies[0]
    assert len({command._key(each) for each in found[3:]}) == 3, "events without an offset are told apart by content"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


class RecordedWaits(StopRequest):
    """Record the waits and return at once."""

    def __init__(self) -> None:
        super().__init__()
        self.waits_s: list[float] = []

    def wait(self, seconds: float) -> bool:
        self.waits_s.append(seconds)
        return self.is_set


@contextmanager
def opened_outlet(
    receiver: Receiver,
    folder: Path,
    stop: StopRequest,
    *,
    is_batched: bool = False,
    pictures: ClipPictures | None = None,
) -> Iterator[WebhookOutlet]:
    target = parse_target(receiver.url)
    with closing(Poster(target, stop)) as poster:
        yield WebhookOutlet(
            target,
            poster,
            DeadLetters(folder / "dead"),
            stop,
            secret=SECRET.encode(),
            is_batched=is_batched,
            pictures=pictures,
        )


def verify(request: Request, secret: bytes, *, now_s: float) -> bool:
    """Verify a signature as docs/outlets.md describes it for receivers."""
    timestamp = request.headers["X-Streamclf-Timestamp"]
    if abs(now_s - int(timestamp)) > 300:
        return False
    expected = "sha256=" + hmac.new(secret, timestamp.encode() + b"." + request.body, hashlib.sha256).hexdigest()
    return hmac.compare_digest(expected, request.headers["X-Streamclf-Signature"])


def test_a_signature_is_valid_for_its_body_and_time_only(receiver: Receiver, tmp_path: Path) -> None:
    with opened_outlet(receiver, tmp_path, RecordedWaits()) as outlet:
        assert outlet.deliver([action_event(7)], None)
    (request,) = receiver.accepted
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


def test_the_documented_receivers_refuse_forged_requests() -> None:
    text = (ROOT / "docs" / "outlets.md").read_text()
    names: dict[str, Any] = {}
    exec(re.findall(r"```python\n(.*?)```", text, re.DOTALL)[0], names)  # the project's own documentation
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


def test_a_batch_is_one_request_and_holds_lost_ranges(receiver: Receiver, tmp_path: Path) -> None:
    with opened_outlet(receiver, tmp_path, RecordedWaits(), is_batched=True) as outlet:
        assert outlet.deliver(
            [action_event(7), Lost(epoch=EPOCH, first=8, last=9), action_event(None), action_event(10)], None
        )
        assert outlet.deliver([action_event(11)], None)
    first, second = receiver.accepted
    assert [event.get("offset") for event in first.json["events"]] == [7, None, None, 10]
    assert first.json["events"][1] == {"v": 1, "type": "lost", "epoch": EPOCH, "first": 8, "last": 9}
    assert first.headers["Idempotency-Key"] == f"{EPOCH}-7+{EPOCH}-10"
    assert (second.headers["Idempotency-Key"], len(second.json["events"])) == (f"{EPOCH}-11", 1)


@pytest.mark.parametrize("status", [500, 503, 429, 408, 0])
def test_a_temporary_failure_is_retried_with_growing_waits(receiver: Receiver, tmp_path: Path, status: int) -> None:
    receiver.answer = lambda request: Response(status if len(receiver.requests) < 9 else 204)
    stop = RecordedWaits()
    with opened_outlet(receiver, tmp_path, stop) as outlet:
        assert outlet.deliver([action_event(7)], None)
    assert len({request.headers["Idempotency-Key"] for request in receiver.requests}) == 1
    assert len(stop.waits_s) >= 5
    assert stop.waits_s[0] < 1 < stop.waits_s[4] < 60 * 1.2
    assert all(later > earlier for earlier, later in zip(stop.waits_s[:5], stop.waits_s[1:5], strict=False))
    assert not (tmp_path / "dead").exists()


def test_waits_grow_to_a_minute_and_have_jitter() -> None:
    waits = [[backoff.next_s() for _ in range(40)] for backoff in (WebhookBackoff(), WebhookBackoff())]
    assert waits[0] != waits[1]
    assert max(waits[0]) <= 72
    assert min(waits[0][10:]) >= 48


@pytest.mark.parametrize(
    ("retry_after", "minimum_s", "maximum_s"),
    [
        ("7", 7, 7),
        ("999999999", MAX_RETRY_AFTER_S, MAX_RETRY_AFTER_S),
        ("in 900 s", 800, 900),
        (format_datetime(datetime(2020, 1, 1, tzinfo=timezone.utc)), 0, 1),
        ("soon", 0, 1),
        ("-5", 0, 1),
    ],
)
def test_retry_after_lengthens_the_wait_up_to_an_hour(
    receiver: Receiver, tmp_path: Path, retry_after: str, minimum_s: float, maximum_s: float
) -> None:
    if retry_after == "in 900 s":  # a date, computed when the test runs
        retry_after = format_datetime(datetime.now(timezone.utc) + timedelta(seconds=900))
    receiver.answer = lambda request: (
        Response(200) if receiver.requests else Response(503, {"Retry-After": retry_after})
    )
    stop = RecordedWaits()
    with opened_outlet(receiver, tmp_path, stop) as outlet:
        assert outlet.deliver([action_event(7)], None)
    assert minimum_s <= stop.waits_s[0] <= maximum_s


@pytest.mark.parametrize("status", [400, 404, 410, 301, 307])
def test_a_refused_event_is_kept_with_the_reason_and_delays_no_other(
    receiver: Receiver, tmp_path: Path, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    receiver.answer = lambda request: Response(
        status if request.json["offset"] == 8 else 200, {"Location": f"{receiver.url}/elsewhere"}
    )
    with opened_outlet(receiver, tmp_path, RecordedWaits()) as outlet:
        assert all(outlet.deliver([action_event(offset)], None) for offset in (7, 8, 9))
    assert [request.json["offset"] for request in receiver.accepted] == [7, 9]
    assert {request.path for request in receiver.requests} == {"/hook"}  # a redirect is not followed
    (line,) = (tmp_path / "dead").read_text().splitlines()
    kept = json.loads(line)
    assert (kept["status"], kept["key"], kept["body"]["offset"]) == (status, f"{EPOCH}-8", 8)
    assert (tmp_path / "dead").stat().st_mode & 0o077 == 0
    assert outlet.refused == 1
    assert f": {status} " in capsys.readouterr().err


def test_a_refused_event_does_not_discard_its_batch(receiver: Receiver, tmp_path: Path) -> None:
    receiver.answer = lambda request: Response(422 if 8 in [e["offset"] for e in request.json["events"]] else 200)
    with opened_outlet(receiver, tmp_path, RecordedWaits(), is_batched=True) as outlet:
        assert outlet.deliver([action_event(7), action_event(8), action_event(9)], None)
    assert [e["offset"] for request in receiver.accepted for e in request.json["events"]] == [7, 9]
    assert outlet.refused == 1


def test_the_event_of_a_clip_carries_its_picture(receiver: Receiver, tmp_path: Path) -> None:
    pictures = ClipPictures(PictureKeys(clips=tmp_path), OutletReport("webhook"))
    picture = store_picture(tmp_path)
    with opened_outlet(receiver, tmp_path, RecordedWaits(), pictures=pictures) as outlet:
        assert outlet.deliver([clip_event(7)], None)
        assert outlet.deliver([action_event(8)], None)
    first, second = receiver.accepted
    assert first.json["picture"]["media_type"] == "image/jpeg"
    assert base64.b64decode(first.json["picture"]["base64"]) == picture
    assert (first.json["type"], first.json["offset"], first.json["file"]) == ("clip", 7, f"{CLIP_STEM}.mp4")
    assert verify(first, SECRET.encode(), now_s=time.time())
    assert "picture" not in second.json


def test_the_pictures_of_one_request_are_limited(
    receiver: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "MAX_PICTURE_BYTES", 900_000)  # two of the default limit, in Base64
    pictures = ClipPictures(PictureKeys(clips=tmp_path), OutletReport("webhook"))
    store_picture(tmp_path)
    batch = [clip_event(1), action_event(2), clip_event(3), clip_event(4), action_event(5)]
    with opened_outlet(receiver, tmp_path, RecordedWaits(), is_batched=True, pictures=pictures) as outlet:
        assert outlet.deliver(batch, None)
    assert [[e["offset"] for e in request.json["events"]] for request in receiver.accepted] == [[1, 2, 3], [4, 5]]
    assert [request.headers["Idempotency-Key"] for request in receiver.accepted] == [
        f"{EPOCH}-1+{EPOCH}-3",
        f"{EPOCH}-4+{EPOCH}-5",
    ]


def test_a_refused_clip_is_kept_without_its_picture(receiver: Receiver, tmp_path: Path) -> None:
    pictures = ClipPictures(PictureKeys(clips=tmp_path), OutletReport("webhook"))
    store_picture(tmp_path)
    receiver.answer = lambda request: Response(413)
    with opened_outlet(receiver, tmp_path, RecordedWaits(), pictures=pictures) as outlet:
        assert outlet.deliver([clip_event(7)], None)
    kept = json.loads((tmp_path / "dead").read_text())
    assert "picture" in receiver.requests[0].json
    assert "picture" not in kept["body"]
    assert kept["body"]["offset"] == 7


def test_a_full_dead_letter_file_is_an_error_with_a_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dead_letters, "MAX_DEAD_LETTER_BYTES", 2000)
    letters = DeadLetters(tmp_path / "dead")
    content = RequestContent("key", b"", b'"' + b"x" * 800 + b'"')
    target = parse_target("http://127.0.0.1:1/")
    letters.append(target, content, Answer(400, "Bad"))
    letters.append(target, content, Answer(400, "Bad"))
    with pytest.raises(JournalError, match="move this file away"):
        letters.append(target, content, Answer(400, "Bad"))
    assert len(letters.path.read_text().splitlines()) == 2


def test_a_full_disk_leaves_no_half_dead_letter(tmp_path: Path) -> None:
    letters = DeadLetters(tmp_path / "dead")
    content, target = RequestContent("key", b"", b'"' + b"x" * 800 + b'"'), parse_target("http://127.0.0.1:1/")
    letters.append(target, content, Answer(400, "Bad"))
    before = letters.path.read_bytes()
    with files_of_at_most(len(before) + 100), pytest.raises(JournalError, match="nothing is lost: free space"):
        letters.append(target, content, Answer(400, "Bad"))
    assert letters.path.read_bytes() == before


def test_an_invalid_argument_is_an_error_with_value_limit_and_remedy(tmp_path: Path) -> None:
    (tmp_path / "short").write_text("123\n")
    with pytest.raises(UsageError, match="a secret of 3 bytes; 16 to 4096"):
        read_secret(tmp_path / "short")
    with pytest.raises(UsageError, match="cannot be read"):
        read_secret(tmp_path / "none")
    (tmp_path / "open").write_text(SECRET)
    (tmp_path / "open").chmod(0o640)
    with pytest.raises(UsageError, match="mode 0640 lets others read the secret; chmod 600"):
        read_secret(tmp_path / "open")
    with pytest.raises(UsageError, match=r"types.0: must be 'prediction', 'action', 'status' or 'clip'"):
        outlet_options(WebhookConfig, url="http://h/", types=["heartbeat"])
    with pytest.raises(UsageError, match="batch: must be greater than or equal to 1"):
        outlet_options(WebhookConfig, url="http://h/", batch=0)


@pytest.fixture
def hub() -> Iterator[HubProcess]:
    with HubProcess() as hub:
        yield hub


def start(hub: HubProcess, url: str, folder: Path, *more: str, **env: str) -> Service:
    (folder / "secret").write_text(SECRET + "\n")
    (folder / "secret").chmod(0o600)
    arguments = ["webhook", hub.events, "--secret-file", "secret", *more]
    return Service(*arguments, cwd=folder, env={"STREAMCLF_WEBHOOK_URL": url, **env})


def first_arrivals(receiver: Receiver) -> list[Any]:
    """Return each event once, in the order of arrival. The `Idempotency-Key` identifies repetitions."""
    found = {request.headers["Idempotency-Key"]: request.json["at_s"] for request in list(receiver.accepted)}
    return list(found.values())


def test_every_action_arrives_in_order_after_a_kill_and_without_the_receiver(
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
            wait_until(position.exists, "the first position", 90)
            act(30)
            receiver.wait_for(lambda: len(first_arrivals(receiver)) == 30, "30 actions")
            receiver.answer = lambda request: Response(503)
            act(10)
            first.wait_for_line("503")
            first.process.kill()
            first.wait()
        receiver.stop()
        act(10)
        with start(hub, url, tmp_path) as second:
            second.wait_for_line("Connection refused.*nothing is lost")
            receiver.answer = lambda request: Response(400 if request.json["at_s"] == 45.0 else 200)
            receiver.start()
            receiver.wait_for(lambda: len(first_arrivals(receiver)) == 49, "all but one")
            act(10)
            receiver.wait_for(lambda: len(first_arrivals(receiver)) == 59, "all but one")
            second.interrupt()
            assert second.wait() == 0
    assert first_arrivals(receiver) == [at_s for at_s in expected if at_s != 45.0]
    assert len(receiver.accepted) <= 60  # a kill repeats at most one
    (line,) = (tmp_path / "webhook.position.dead.jsonl").read_text().splitlines()
    assert json.loads(line)["body"]["at_s"] == 45.0
    assert all(verify(request, SECRET.encode(), now_s=time.time()) for request in receiver.accepted)
    output = "\n".join(first.lines + second.lines)
    assert re.search("1 refused for good", output)
    for secret in (SECRET, "pass-in-url", "path-secret", receiver.accepted[0].headers["Authorization"][6:]):
        assert secret not in output


@pytest.mark.parametrize(
    ("response", "reason"),
    [
        (
            Response(308, {"Location": "http://user:path-secret@192.0.2.7:81/new/"}),
            "308 .* to http://192.0.2.7:81/new/",
        ),
        (Response(404), "404 Not Found: refused"),
    ],
    ids=["redirect", "not found"],
)
def test_refused_events_do_not_count_as_delivered(
    tmp_path: Path, receiver: Receiver, hub: HubProcess, response: Response, reason: str
) -> None:
    receiver.answer = lambda request: response if request.json["at_s"] > 1 else Response(200)
    more = ("--from-start", "--updates")
    with EventProducer(hub.link, "test") as link, start(hub, receiver.url, tmp_path, *more) as outlet:
        for phase, at_s in (("start", 1.0), ("update", 2.0), ("end", 3.0)):
            link.post(action(phase, at_s=at_s))
        receiver.wait_for(lambda: len(receiver.requests) == 3, "three requests")
        outlet.wait_for_line("2 so far")
        outlet.interrupt()
        assert outlet.wait() == 0
    output = "\n".join(outlet.lines)
    assert re.search(reason, output)
    assert "1 events delivered, 2 refused for good" in outlet.lines[-1]
    assert "path-secret" not in output


def test_a_lost_range_is_posted_reported_and_counted(tmp_path: Path, receiver: Receiver) -> None:
    with HubProcess() as hub:
        with EventProducer(hub.link, "test") as link, start(hub, receiver.url, tmp_path) as first:
            wait_until((tmp_path / "webhook.position").exists, "the first position", 90)
            link.post(action("start"))
            receiver.wait_for(lambda: len(receiver.accepted) == 1, "an action")
            first.interrupt()
            assert first.wait() == 0
        hub.kill()
        for file in hub.directory.glob("journal*"):
            file.unlink()
        hub.start()
        with EventProducer(hub.link, "test") as link, start(hub, receiver.url, tmp_path) as second:
            link.post(action("start"))
            receiver.wait_for(lambda: len(receiver.accepted) == 3, "a lost range and an action")
            second.interrupt()
            assert second.wait() == 0
    assert [request.json["type"] for request in receiver.accepted] == ["action", "lost", "action"]
    assert "1 ranges lost" in second.lines[-1]
    assert any("lost: offsets 2 to an unknown offset" in line for line in second.lines)


def test_https_requires_a_trusted_certificate_and_can_start_at_the_oldest_event(
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
            receiver.wait_for(lambda: bool(receiver.accepted), "a batch")
            events = [event for request in receiver.accepted for event in request.json["events"]]
            assert [event["at_s"] for event in events][:1] == [0.0]


def test_the_start_of_an_action_carries_a_picture_of_the_stream(receiver: Receiver, tmp_path: Path) -> None:
    with HubProcess() as hub, EventProducer(hub.link, "capture-door") as link, PreviewCamera(link, "door"):
        link.post(status("door", "live"))
        options = ("--first-picture", "--picture-bytes", "60000")
        with Service("webhook", hub.events, receiver.url, *options, cwd=tmp_path) as outlet:
            wait_until((tmp_path / "webhook.position").exists, "the outlet", 90)
            for phase in ("start", "end"):
                link.post(action(phase))
            wait_until(lambda: len(receiver.accepted) == 2, "both requests", 90)
            outlet.interrupt()
            assert outlet.wait() == 0
    start, end = receiver.accepted
    image = cv2.imdecode(np.frombuffer(base64.b64decode(start.json["picture"]["base64"]), np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    assert image.shape == (360, 640, 3)
    assert np.abs(image.astype(int) - 90).max() > 100  # label and probability are drawn on it
    assert "picture" not in end.json
