"""Serve the directory of a fleet to subscribers (docs/protocol.md, Fleets), in a thread of its own. Needs no Ray."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import zmq
from pydantic import ValidationError

from streamclf.events.directory import Directory, DirectoryRequest
from streamclf.hub.guard.curve_gate import AllowList, CurveGate
from streamclf.hub.request_server import RequestServer, error_reply, fault_text
from streamclf.net.curve_keys import load_certificate

log = logging.getLogger(__name__)

_CACHE_S: Final = 0.1
"""One directory serves all requests of this time."""


class DirectoryServer:
    """Answer requests for the directory, until closed."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        endpoint: str,
        provide: Callable[[], Directory],
        *,
        keys: Path | None = None,
        allow: Path | None = None,
    ) -> None:
        """Bind `endpoint`. `keys` and `allow` are those of `publish` in the configuration.

        `provide` returns the present directory. It is called in the server's thread, ten times a second at most, and
        must not block. Raises `BusError`, and `UsageError` for keys that cannot be used.
        """
        self._provide = provide
        self._cached: Directory | None = None
        self._cached_at_s = 0.0
        self._gate = None
        if keys is not None and allow is not None:
            self._gate = CurveGate(context, load_certificate(keys, secret=True), AllowList(allow))
        try:
            self._server = RequestServer(
                context, endpoint, self._reply, role="the directory", thread="directory", gate=self._gate
            )
        except BaseException:
            if self._gate:
                self._gate.close()
            raise
        self.endpoint = self._server.endpoint
        """The endpoint as bound."""

    def close(self) -> None:
        """End the thread and its socket."""
        self._server.close()
        if self._gate:
            self._gate.close()

    def _reply(self, body: bytes, user: str | None) -> list[bytes]:
        try:
            request = DirectoryRequest.model_validate_json(body)
        except ValidationError as error:
            return [error_reply("", f"{fault_text(error)}; this is the directory of a fleet")]
        now_s = time.monotonic()
        if self._cached is None or now_s - self._cached_at_s >= _CACHE_S:
            try:
                self._cached, self._cached_at_s = self._provide(), now_s
            except Exception:  # the thread has to serve the next request
                log.exception("the directory cannot be made")
                return [
                    error_reply(request.id, "the directory cannot be made now; the log of the fleet has the details")
                ]
        found = self._cached.model_copy(update={"id": request.id})
        if request.known == found.revision:
            found = found.model_copy(update={"unchanged": True, "nodes": (), "streams": {}})
        return [found.model_dump_json(exclude_none=True).encode()]
