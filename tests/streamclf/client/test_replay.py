"""Test the replay client against replies that are wrong."""

from __future__ import annotations

import json
import threading
import time

import pytest
import zmq

from streamclf.client.replay import ReplayClient
from streamclf.events.positions import Position

EPOCH = "ab" * 16


def test_malformed_reply_is_requested_again() -> None:
    context = zmq.Context()
    with context, context.socket(zmq.ROUTER) as router:
        port = router.bind_to_random_port("tcp://127.0.0.1")
        replies = [b"nonsense", b'{"v":1,"reply":"error","id":"2","error":"the journal cannot be read now"}']

        def serve() -> None:
            for number in range(3):
                assert router.poll(60_000)
                peer, request = router.recv_multipart()
                request_id = json.loads(request)["id"]
                header = {"v": 1, "reply": "snapshot", "id": request_id, "epoch": EPOCH, "oldest": 1, "head": 7}
                router.send_multipart([peer, replies[number] if number < 2 else json.dumps(header).encode()])

        server = threading.Thread(target=serve)
        server.start()
        client = ReplayClient(context, f"tcp://127.0.0.1:{port}", [])
        found = client.snapshot([], time.monotonic() + 10)
        client.close()
        server.join(60)
    assert found is not None
    assert found.position == Position(EPOCH, 7)


@pytest.mark.parametrize("fault", ["types: Tuple should have at most 3 items", "types.3: Input should be 'prediction'"])
def test_a_service_that_does_not_know_a_type_is_asked_without_it(fault: str) -> None:
    """A service of an older version refuses the whole request."""
    context = zmq.Context()
    asked: list[list[str]] = []
    with context, context.socket(zmq.ROUTER) as router:
        port = router.bind_to_random_port("tcp://127.0.0.1")

        def serve() -> None:
            while not asked or "clip" in asked[-1]:
                assert router.poll(60_000)
                peer, request = router.recv_multipart()
                body = json.loads(request)
                asked.append(body["types"])
                reply: dict[str, object] = {"v": 1, "reply": "error", "id": "", "error": fault}
                if "clip" not in asked[-1]:
                    reply = {"v": 1, "reply": "snapshot", "id": body["id"], "epoch": EPOCH, "oldest": 1, "head": 7}
                router.send_multipart([peer, json.dumps(reply).encode()])

        server = threading.Thread(target=serve)
        server.start()
        client = ReplayClient(context, f"tcp://127.0.0.1:{port}", [])
        found = client.snapshot(["status", "clip"], time.monotonic() + 10)
        client.close()
        server.join(60)
    assert found is not None
    assert asked == [["clip", "status"], ["status"]]
