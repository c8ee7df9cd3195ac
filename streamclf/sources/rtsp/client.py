"""Send RTSP requests and receive their responses, with authentication, and the packets that arrive between them."""

from __future__ import annotations

import select
import threading
import time
from collections import deque
from typing import NoReturn

import av.error

from streamclf.errors import SourceError, SourceRefusedError
from streamclf.sources.failure_messages import REASONS
from streamclf.sources.rtsp.address import Credentials
from streamclf.sources.rtsp.auth import Authenticator, choose_challenge
from streamclf.sources.rtsp.connection import RtspConnection, UdpPair, wait_ready
from streamclf.sources.rtsp.fallback import UnsupportedStreamError
from streamclf.sources.rtsp.framing import InterleavedParser, ReceivedPackets
from streamclf.sources.rtsp.message import MalformedMessageError, RtspMessage, request_bytes, response_bytes

USER_AGENT = "streamclf"
SEND_S = 1.0
MAX_EARLY_PACKETS = 4096
"""Packets that may arrive before the response to a request, mostly PLAY: a few frames."""
MAX_AUTH_ATTEMPTS = 3
"""Attempts at one request: without credentials, with credentials, with a new nonce."""
REASON_OF_STATUS: dict[int, type[Exception]] = {
    400: av.error.HTTPBadRequestError,
    401: av.error.HTTPUnauthorizedError,
    403: av.error.HTTPForbiddenError,
    404: av.error.HTTPNotFoundError,
}


class StreamEndedError(Exception):
    """The server closed the connection or ended the session."""


class RtspClient:
    """The client side of one RTSP connection. No other object holds the user and password."""

    def __init__(
        self, connection: RtspConnection, credentials: Credentials | None, *, shown: str, stop: threading.Event
    ) -> None:
        self._connection = connection
        self._credentials = credentials
        self._shown = shown
        self._stop = stop
        self._authenticator: Authenticator | None = None
        self._sequence = 0
        self._early: list[ReceivedPackets] = []
        self._responses: deque[RtspMessage] = deque(maxlen=16)
        self._udp: UdpPair | None = None
        self._polls = select.poll()
        self._fileno = connection.fileno()
        self._polls.register(self._fileno, select.POLLIN)
        self.framing = InterleavedParser()
        self.session = ""
        """The server's identifier of our session, sent with each request."""

    def add_udp(self, udp: UdpPair) -> None:
        """Receive packets from these ports as well."""
        self._udp = udp
        for fileno in udp.filenos():
            self._polls.register(fileno, select.POLLIN)

    def request(self, method: str, url: str, deadline: float, **headers: str) -> RtspMessage:
        """Send a request and return its response, of any status but 401, which raises `SourceRefusedError`."""
        response = self._wait_response(self.send_request(method, url, deadline, **headers), deadline)
        for attempt in range(MAX_AUTH_ATTEMPTS - 1):
            if response.status != 401 or self._credentials is None:
                break
            challenge = choose_challenge(response.headers.get("www-authenticate", []))
            if challenge is None:
                raise UnsupportedStreamError("an authentication scheme that is neither basic nor digest")
            if attempt and not challenge.is_stale:
                break
            self._authenticator = Authenticator(self._credentials, challenge)
            response = self._wait_response(self.send_request(method, url, deadline, **headers), deadline)
        if response.status == 401:
            self.raise_for_status(401)
        return response

    def send_request(self, method: str, url: str, deadline: float, **headers: str) -> int:
        """Send a request without waiting for its response. Returns its sequence number."""
        self._sequence += 1
        fields = {"CSeq": str(self._sequence), "User-Agent": USER_AGENT}
        if self._authenticator is not None:
            fields["Authorization"] = self._authenticator.header(method, url)
        if self.session:
            fields["Session"] = self.session
        try:
            data = request_bytes(method, url, fields | headers)
        except MalformedMessageError:
            raise SourceError(f"{self._shown}: user, password or path contain a line break; check the URL") from None
        self._connection.send(data, deadline)
        return self._sequence

    def update_challenge(self, response: RtspMessage) -> None:
        """Use the challenge in a response to `send_request`, if it has one, for the next requests."""
        is_refused = response.status == 401
        challenge = choose_challenge(response.headers.get("www-authenticate", [])) if is_refused else None
        if challenge is not None and self._credentials is not None:
            self._authenticator = Authenticator(self._credentials, challenge)

    def raise_for_status(self, status: int) -> NoReturn:
        """Raise the `SourceError` for the status of a response that is not 200."""
        if status >= 500:
            raise SourceError(f"{self._shown}: {REASONS[av.error.HTTPServerError]}")
        kind = REASON_OF_STATUS.get(status)
        text = REASONS[kind] if kind else f"the server refuses the request ({status}); check the URL and the server"
        raise SourceRefusedError(f"{self._shown}: {text}")

    def refusal(self, reason: str) -> SourceError:
        """Return the error for data that exceeds a limit or is not RTSP.

        It is not an `UnsupportedStreamError`: FFmpeg has no such limits, and follows redirects to any host with the
        password.
        """
        return SourceError(
            f"{self._shown}: the server sends {reason}; check address and server, or set demuxer: ffmpeg "
            "if you trust it"
        )

    def send_packet(self, channel: int, data: bytes) -> None:
        """Send a packet on an interleaved channel."""
        head = bytes([0x24, channel]) + len(data).to_bytes(2, "big")
        self._connection.send(head + data, time.monotonic() + SEND_S)

    def receive(self, until: float) -> tuple[list[ReceivedPackets], list[RtspMessage]]:
        """Return packets, and responses to `send_request`; both are empty at `until`. Raises `StreamEndedError`."""
        if not self._early and not self._responses:
            self._collect(until)
        packets, self._early = self._early, []
        responses: list[RtspMessage] = []
        while self._responses:
            responses.append(self._responses.popleft())
        return packets, responses

    def _wait_response(self, sequence: int, deadline: float) -> RtspMessage:
        while True:
            self._collect(deadline)
            while self._responses:
                response = self._responses.popleft()
                # Some cameras omit the sequence number. A provisional response (1xx) is not the final one.
                if response.sequence in (sequence, None) and response.status >= 200:
                    return response
            if time.monotonic() >= deadline:
                raise TimeoutError
            while sum(len(data.packets) for data in self._early) > MAX_EARLY_PACKETS:
                del self._early[0]

    def _collect(self, until: float) -> None:
        """Wait for data and sort it into packets and responses."""
        if self._connection.holds_data and not self._stop.is_set() and self._read_connection():
            return
        try:
            ready = wait_ready(self._polls, until, self._stop)
        except TimeoutError:
            return
        if self._udp is None:
            self._read_connection()
            return
        filenos = [fileno for fileno, _ in ready]
        self._early += self._udp.receive(filenos)
        if self._fileno in filenos:
            self._read_connection()

    def _read_connection(self) -> bool:
        """Read and sort the data of the connection. Returns whether there was any."""
        data = self._connection.receive()
        if data is None:
            return False
        if not data:
            raise StreamEndedError
        try:
            items = self.framing.feed(data)
        except MalformedMessageError as error:
            raise self.refusal(str(error)) from None
        for item in items:
            if isinstance(item, ReceivedPackets):
                self._early.append(item)
            elif item.status:
                self._responses.append(item)
            else:
                self._respond(item)
        return True

    def _respond(self, request: RtspMessage) -> None:
        """Respond to a request by the server. Raises `StreamEndedError` if the server ends the session."""
        known = request.method in ("OPTIONS", "GET_PARAMETER", "SET_PARAMETER", "ANNOUNCE", "REDIRECT", "TEARDOWN")
        response = response_bytes(200 if known else 501, request.sequence)
        self._connection.send(response, time.monotonic() + SEND_S)
        if request.method in ("REDIRECT", "TEARDOWN"):
            raise StreamEndedError
