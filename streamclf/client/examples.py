"""Request that a service saves a stretch of a stream as an example film, and wait for the result."""

from __future__ import annotations

import secrets
import time
from typing import Any, Final

import orjson
import zmq

from streamclf.errors import BusError, ClipError, EventError
from streamclf.events.example_request import ExampleRequest, ExampleResult, parse_example_result
from streamclf.events.kinds import MAX_EVENT_BYTES
from streamclf.net.curve_client import ServiceAddress
from streamclf.net.zeromq import open_socket

REPLY_S: Final = 3.0
RESULT_S: Final = 20.0
POLL_S: Final = 0.1


def save_example(
    address: ServiceAddress, replay: str, request: ExampleRequest, *, deadline_s: float = RESULT_S
) -> ExampleResult:
    """Save an example through the replay endpoint `replay` of a service; return the film that was saved.

    Raises `ClipError` with the service's reason where nothing was saved, and `BusError` where it does not answer.
    """
    end_s = time.monotonic() + deadline_s
    with zmq.Context(io_threads=1) as context, open_socket(context, zmq.DEALER, max_bytes=MAX_EVENT_BYTES) as socket:
        socket.linger = 0
        address.configure(socket)
        socket.connect(replay)
        reply = _ask(socket, {"request": "save", "example": request.model_dump(exclude_defaults=True)})
        ticket = str(reply.get("ticket"))
        while time.monotonic() < end_s:
            result = _ask(socket, {"request": "saved", "ticket": ticket}).get("result")
            if result is not None:
                return _checked(result)
            time.sleep(POLL_S)
    raise BusError(
        f"{request.stream}: the example was not saved within {deadline_s:g} s; check that the stream is live"
    )


def _ask(socket: zmq.Socket[bytes], body: dict[str, Any]) -> dict[str, Any]:
    request_id = secrets.token_hex(8)
    try:
        socket.send(orjson.dumps({"v": 1, "id": request_id, **body}), zmq.NOBLOCK)
    except zmq.Again:
        raise BusError("the service does not accept requests now; try again") from None
    end_s = time.monotonic() + REPLY_S
    while (left_s := end_s - time.monotonic()) > 0:
        if not socket.poll(int(1000 * left_s) + 1):
            break
        reply = orjson.loads(socket.recv_multipart()[0])
        if not isinstance(reply, dict):
            continue
        if reply.get("reply") == "error":
            raise ClipError(_reason(str(reply.get("error", ""))))
        if reply.get("id") == request_id:
            return reply
    raise BusError(f"the service has not answered within {REPLY_S:g} s; it may be an older version, or be stopping")


def _reason(text: str) -> str:
    """Return the reason of a refusal; a service of an older version does not know the request."""
    return "the service is an older version that saves no examples" if text.startswith("request:") else text[:1000]


def _checked(result: Any) -> ExampleResult:
    try:
        found = parse_example_result(orjson.dumps(result))
    except EventError as error:
        raise BusError(f"the service's answer is not a result ({error}); install the same version here") from None
    if found.error is not None:
        raise ClipError(found.error)
    return found
