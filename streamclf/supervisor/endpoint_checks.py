"""Bind the endpoints of a service for a moment, to find out whether its hub could."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Final

import zmq

from streamclf.config.publish import PublishConfig
from streamclf.errors import BusError, EndpointInUseError
from streamclf.net.zeromq import bind

RELEASE_S: Final = 3.0
"""A hub whose supervisor was killed releases its endpoints within this time."""
_POLL_S: Final = 0.2


@contextlib.contextmanager
def bound_endpoints(publish: PublishConfig) -> Iterator[list[BusError]]:
    """Hold the endpoints of a service; yield the errors of those that cannot be bound."""
    errors: list[BusError] = []
    context = zmq.Context[zmq.Socket[bytes]]()
    try:
        with context.socket(zmq.PUB) as events, context.socket(zmq.ROUTER) as replay:
            for bound, key in ((events, "events"), (replay, "replay")):
                bound.linger = 0
                try:
                    bind(bound, getattr(publish, key), f"publish.{key}", guarded=publish.keys is not None)
                except BusError as error:
                    errors.append(error)
            yield errors
    finally:
        context.destroy(linger=0)


def check_endpoints(publish: PublishConfig) -> None:
    """Raise `BusError` if an endpoint cannot be bound, or is still in use after `RELEASE_S`."""
    end_s = time.monotonic() + RELEASE_S
    while True:
        with bound_endpoints(publish) as errors:
            if not errors:
                return
        if not isinstance(errors[0], EndpointInUseError) or time.monotonic() >= end_s:
            raise errors[0]
        time.sleep(_POLL_S)
