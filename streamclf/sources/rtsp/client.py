"""Requests and their answers on one connection, proofs of who we are included; packets that come between them."""

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
from streamclf.sources.rtsp.connection import RtspConnection, UdpPair, wait
from streamclf.sources.rtsp.fallback import UnsupportedStreamError
from streamclf.sources.rtsp.framing import InterleavedParser, ReceivedPackets
from streamclf.sources.rtsp.message import MalformedMessageError, RtspMessage, request_bytes, response_bytes

USER_AGENT = "streamclf"
SEND_S = 1.0
MAX_EARLY = 4096
"""Packets that come before the answer to a request, PLAY mostly: a few pictures."""
MAX_AUTH_ATTEMPTS = 3
"""Attempts at one request: without credentials, with them, with a new nonce."""
REASON_OF_STATUS: dict[int, type[Exception]] = {
    400: av.error.HTTPBadRequestError,
    401: av.error.HTTPUnauthorizedError,
    403: av.error.HTTPForbiddenError,
    404: av.error.HTTPNotFoundError,
}


class StreamEndedError(Exception):
    """The server has closed the connection, or says that there will be no more."""


class RtspClient:
    """One side of a conversation. The URL's user and password stay in here."""

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
        self._answers: deque[RtspMessage] = deque(maxlen=16)
        self._udp: UdpPair | None = None
        self._polls = select.poll()
        self._fileno = connection.fileno()
        self._polls.register(self._fileno, select.POLLIN)
        self.framing = InterleavedParser()
        self.session = ""
        """The server's name of our session, sent back with each request."""

    def listen(self, udp: UdpPair) -> None:
        """Take packets from these ports too."""
        self._udp = udp
        for fileno in udp.filenos():
            self._polls.register(fileno, select.POLLIN)

    def request(self, method: str, url: str, deadline: float, **headers: str) -> RtspMessage:
        """The answer to a request, whatever its status but 401, for which it raises `SourceRefusedError`."""
        answer = self._answer(self.tell(method, url, deadline, **headers), deadline)
        for attempt in range(MAX_AUTH_ATTEMPTS - 1):
            if answer.status != 401 or self._credentials is None:
                break
            challenge = choose_challenge(answer.headers.get("www-authenticate", []))
            if challenge is None:
                raise UnsupportedStreamError("a way to authenticate that is neither basic nor digest")
            if attempt and not challenge.is_stale:
                break
            self._authenticator = Authenticator(self._credentials, challenge)
            answer = self._answer(self.tell(method, url, deadline, **headers), deadline)
        if answer.status == 401:
            self.refuse(401)
        return answer

    def tell(self, method: str, url: str, deadline: float, **headers: str) -> int:
        """Send a request whose answer nobody waits for; its number."""
        self._sequence += 1
        fields = {"CSeq": str(self._sequence), "User-Agent": USER_AGENT}
        if self._authenticator is not None:
            fields["Authorization"] = self._authenticator.header(method, url)
        if self.session:
            fields["RtspSession"] = self.session
        try:
            data = request_bytes(method, url, fields | headers)
        except MalformedMessageError:
            raise SourceError(f"{self._shown}: user, password or path have a line break; check the URL") from None
        self._connection.send(data, deadline)
        return self._sequence

    def answered(self, answer: RtspMessage) -> None:
        """An answer to something told: its challenge is the one to answer from now on."""
        challenge = choose_challenge(answer.headers.get("www-authenticate", [])) if answer.status == 401 else None
        if challenge is not None and self._credentials is not None:
            self._authenticator = Authenticator(self._credentials, challenge)

    def refuse(self, status: int) -> NoReturn:
        """Raise what this status of an answer means."""
        if status >= 500:
            raise SourceError(f"{self._shown}: {REASONS[av.error.HTTPServerError]}")
        kind = REASON_OF_STATUS.get(status)
        text = REASONS[kind] if kind else f"the server refuses the request ({status}); check the URL and the server"
        raise SourceRefusedError(f"{self._shown}: {text}")

    def send_packet(self, channel: int, data: bytes) -> None:
        """A packet of ours, on an interleaved channel."""
        head = bytes([0x24, channel]) + len(data).to_bytes(2, "big")
        self._connection.send(head + data, time.monotonic() + SEND_S)

    def receive(self, until: float) -> tuple[list[ReceivedPackets], list[RtspMessage]]:
        """Packets, and answers nobody waited for; nothing after `until`. Raises `StreamEndedError`."""
        if not self._early and not self._answers:
            self._collect(until)
        packets, self._early = self._early, []
        answers: list[RtspMessage] = []
        while self._answers:
            answers.append(self._answers.popleft())
        return packets, answers

    def _answer(self, sequence: int, deadline: float) -> RtspMessage:
        while True:
            self._collect(deadline)
            while self._answers:
                answer = self._answers.popleft()
                # Some cameras leave the number out. An answer in between (1xx) is none yet.
                if answer.sequence in (sequence, None) and answer.status >= 200:
                    return answer
            if time.monotonic() >= deadline:
                raise TimeoutError
            while sum(len(data.packets) for data in self._early) > MAX_EARLY:
                del self._early[0]

    def _collect(self, until: float) -> None:
        """Wait for something and sort it."""
        if self._connection.holds_data and not self._stop.is_set() and self._take():
            return
        try:
            ready = wait(self._polls, until, self._stop)
        except TimeoutError:
            return
        if self._udp is None:
            self._take()
            return
        filenos = [fileno for fileno, _ in ready]
        self._early += self._udp.receive(filenos)
        if self._fileno in filenos:
            self._take()

    def _take(self) -> bool:
        """Sort what the connection has; whether there was anything."""
        data = self._connection.receive()
        if data is None:
            return False
        if not data:
            raise StreamEndedError
        try:
            items = self.framing.feed(data)
        except MalformedMessageError as error:
            raise UnsupportedStreamError(str(error)) from None
        for item in items:
            if isinstance(item, ReceivedPackets):
                self._early.append(item)
            elif item.status:
                self._answers.append(item)
            else:
                self._serve(item)
        return True

    def _serve(self, request: RtspMessage) -> None:
        """A server may ask as well: whether we are there, or to go away."""
        known = request.method in ("OPTIONS", "GET_PARAMETER", "SET_PARAMETER", "ANNOUNCE", "REDIRECT", "TEARDOWN")
        answer = response_bytes(200 if known else 501, request.sequence)
        self._connection.send(answer, time.monotonic() + SEND_S)
        if request.method in ("REDIRECT", "TEARDOWN"):
            raise StreamEndedError
