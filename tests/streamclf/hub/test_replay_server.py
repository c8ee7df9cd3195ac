"""Test the replay server: it refuses malformed requests, and the answers that wait for slow clients are bounded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
import zmq
from pydantic import ValidationError

from streamclf.events.example_request import ExampleResult
from streamclf.hub.example_requests import ExampleRequests
from streamclf.hub.replay_server import ReplayServer, Request


@pytest.mark.parametrize("value", ["true", "false", '"5"', "5.5", "null", "[5]", "-1"])
@pytest.mark.parametrize("key", ["after", "limit", "v"])
def test_value_that_is_no_number_is_refused(key: str, value: str) -> None:
    with pytest.raises(ValidationError):
        Request.model_validate_json(f'{{"request":"replay","{key}":{value}}}')


def test_request_with_every_key_is_accepted() -> None:
    request = Request.model_validate_json(
        b'{"v":1,"request":"replay","id":"a","epoch":null,"after":5,"limit":7,"streams":["door"],"types":["action"]}'
    )
    assert (request.after, request.limit, request.streams, request.types) == (5, 7, ("door",), ("action",))


def test_a_type_of_a_later_version_is_accepted() -> None:
    assert Request.model_validate_json('{"request": "snapshot", "types": ["status", "weather"]}').types[1] == "weather"
    with pytest.raises(ValidationError):
        Request.model_validate_json('{"request": "snapshot", "types": ["\'; DROP TABLE events"]}')


@pytest.fixture
def saver(tmp_path: Path) -> Iterator[tuple[ExampleRequests, Callable[[frozenset[str | None] | None, object], Any]]]:
    """Yield the requests for examples, and a function that sends a request to a server with these savers."""
    examples = ExampleRequests(enabled=True)
    with zmq.Context() as context:

        def ask(savers: frozenset[str | None] | None, body: object) -> Any:
            server = ReplayServer(context, "tcp://127.0.0.1:*", tmp_path / "none.db", examples=examples, savers=savers)
            try:
                with context.socket(zmq.REQ) as socket:
                    socket.linger = 0
                    socket.connect(server.endpoint)
                    socket.send(body if isinstance(body, bytes) else orjson.dumps(body))
                    assert socket.poll(60_000)
                    return orjson.loads(socket.recv())
            finally:
                server.close()

        yield examples, ask
    examples.close()


EXAMPLE = {"stream": "door", "begin": 1000.0, "end": 1002.0, "project": "yard", "label": "open"}


def test_an_example_is_requested_and_its_result_is_asked_for(saver: Any) -> None:
    examples, ask = saver
    reply = ask(None, {"request": "save", "id": "a", "example": EXAMPLE})
    assert reply["reply"] == "save"
    ((ticket, stream, _),) = examples.pop_unsent()
    assert (ticket, stream) == (reply["ticket"], "door")
    assert ask(None, {"request": "saved", "id": "b", "ticket": ticket})["result"] is None
    examples.complete(ticket, ExampleResult(error="no video"))
    assert ask(None, {"request": "saved", "ticket": ticket})["result"]["error"] == "no video"


def test_with_keys_only_the_outlets_of_the_service_may_save(saver: Any) -> None:
    """A key on the allow-list is meant for reading; a peer without the service's own key is refused."""
    examples, ask = saver
    for request in ({"request": "save", "example": EXAMPLE}, {"request": "saved", "ticket": "x"}):
        assert "only an outlet of the service" in ask(frozenset({"own key"}), request)["error"]
    assert examples.pop_unsent() == []


@pytest.mark.parametrize(
    "example",
    [
        None,
        {},
        [],
        {**EXAMPLE, "path": "/etc/passwd"},
        {**EXAMPLE, "project": "../x"},
        {**EXAMPLE, "stream": "a/b"},
        {**EXAMPLE, "label": None},
        {**EXAMPLE, "end": 999.0},
        {**EXAMPLE, "end": 9999.0},
        {**EXAMPLE, "label": "x" * 257},
        {**EXAMPLE, "area": {"mask": ["x" * 20_000]}},
    ],
)
def test_a_wrong_request_for_an_example_is_refused(saver: Any, example: object) -> None:
    examples, ask = saver
    assert ask(None, {"request": "save", "example": example})["reply"] == "error"
    assert examples.pop_unsent() == []


@pytest.mark.parametrize("key", ["begin", "area", "extra"])
def test_a_number_beyond_64_bits_does_not_end_the_thread(saver: Any, key: str) -> None:
    number = b"1" * 40 if key != "area" else b'{"mask": ' + b"1" * 40 + b', "text": "' + b"x" * 20_000 + b'"}'
    body = orjson.dumps(EXAMPLE)[:-1] + b', "' + key.encode() + b'": ' + number + b"}"
    assert saver[1](None, b'{"request": "save", "example": ' + body + b"}")["reply"] == "error"


def test_an_unknown_request_is_named(saver: Any) -> None:
    assert saver[1](None, {"request": "delete"})["error"].startswith("request: ")
