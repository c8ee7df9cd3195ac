"""Play an RTSP URL (OPTIONS, DESCRIBE, SETUP, PLAY) and keep the session alive."""

from __future__ import annotations

import contextlib
import random
import re
import threading
import time
from typing import Literal

from streamclf.errors import SourceError
from streamclf.sources.rtsp.address import RtspAddress, join_control, parse_url, resolve_redirect
from streamclf.sources.rtsp.client import RtspClient, StreamEndedError
from streamclf.sources.rtsp.connection import RtspConnection, StopRequestedError, UdpPair, tls_context
from streamclf.sources.rtsp.fallback import UnsupportedStreamError
from streamclf.sources.rtsp.framing import ReceivedPackets
from streamclf.sources.rtsp.media import TrackReceiver
from streamclf.sources.rtsp.message import MalformedMessageError, RtspMessage
from streamclf.sources.rtsp.sdp import Presentation, parse_sdp

MAX_REDIRECTIONS = 3
TIMEOUT_S = 60.0
"""A server ends a session after this long without a request, unless it declares another time-out."""
KEEP_ALIVE_S = (1.0, 30.0)
"""The shortest and the longest interval between keep-alive requests."""
REPORT_S = 5.0
"""Mean interval between receiver reports, each varied by up to half (RFC 3550, section 6.2)."""
REORDER_S = 0.1
"""Longest wait for a missing datagram."""
TEARDOWN_S = 0.2
SEND_S = 1.0
PUNCH = bytes([0x80, 0]) + bytes(10)
"""An empty RTP packet, which opens the way through a firewall for the packets that come back."""


class RtspSession:
    """One playing track. Raises `SourceError`, `OSError`, `TimeoutError`, `StreamEndedError`, `StopRequestedError`."""

    def __init__(
        self,
        url: str,
        *,
        shown: str,
        transport: Literal["tcp", "udp"],
        deadline: float,
        tls_ca: str | None,
        tls_verify: bool,
        stop: threading.Event,
    ) -> None:
        """Play `url`; all requests together end by `deadline` (monotonic seconds)."""
        self._shown = shown
        self._stop = stop
        self._deadline = deadline
        self._tls = (tls_ca, tls_verify)
        self._udp: UdpPair | None = None
        self._server_ports: tuple[int, int] | None = None
        self._channels = (0, 1)
        self._timeout_s = TIMEOUT_S
        self._random = random.Random()  # noqa: S311 - only for jitter
        address, self._credentials = parse_url(url, shown)
        self._client, self._connection = self._connect(address)
        try:
            self._presentation, base = self._describe(address)
            # With TLS the packets must use the same connection: anybody on the network path can read UDP.
            self._media = self._set_up(base, udp=transport == "udp" and not address.tls)
            self._control = join_control(base, self._presentation.control)
            self._play()
        except BaseException:
            self.close(teardown=False)
            raise
        now = time.monotonic()
        self._keep_alive_at, self._report_at = now + self._keep_alive_s(), now

    @property
    def presentation(self) -> Presentation:
        """The server's description of the stream."""
        return self._presentation

    @property
    def media(self) -> TrackReceiver:
        """The receiver that assembles packets into frames."""
        return self._media

    def receive(self, until: float) -> list[ReceivedPackets]:
        """Return packets in the order of arrival; an empty list at `until`. Also keeps the session alive."""
        client = self._client
        junk = client.framing.junk
        packets, responses = client.receive(min(until, self._keep_alive_at, self._report_at))
        for response in responses:
            self._handle_response(response)
        if client.framing.junk != junk:
            self._media.add_damage()
        now = time.monotonic()
        if now >= self._keep_alive_at or now >= self._report_at:
            self._send_due(now)
        return packets

    def close(self, *, teardown: bool = True) -> None:
        """Close the connection, after a TEARDOWN request if that can be sent at once."""
        if teardown and self._client.session:
            with contextlib.suppress(OSError, SourceError, StopRequestedError):
                self._client.send_request("TEARDOWN", self._control, time.monotonic() + TEARDOWN_S)
        self._client.session = ""
        self._connection.close()
        if self._udp is not None:
            self._udp.close()

    def _connect(self, address: RtspAddress) -> tuple[RtspClient, RtspConnection]:
        tls_ca, verify = self._tls
        context = tls_context(tls_ca, verify=verify, shown=self._shown) if address.tls else None
        connection = RtspConnection(address, context=context, deadline=self._deadline, stop=self._stop)
        return RtspClient(connection, self._credentials, shown=self._shown, stop=self._stop), connection

    def _describe(self, address: RtspAddress) -> tuple[Presentation, str]:
        """Return the server's description, and the URL that its control URLs are relative to."""
        for redirections in range(MAX_REDIRECTIONS + 1):
            if redirections:
                self._connection.close()
                self._client, self._connection = self._connect(address)
            options = self._client.request("OPTIONS", address.url, self._deadline)
            self._public = options.header("public").upper() if options.status == 200 else ""
            response = self._client.request("DESCRIBE", address.url, self._deadline, Accept="application/sdp")
            if response.status == 200:
                base = response.header("content-base") or response.header("content-location") or address.url
                try:
                    return parse_sdp(response.body), self._base(base, address)
                except MalformedMessageError as error:
                    raise self._client.refusal(str(error)) from None
            if response.status not in (301, 302, 303, 305, 307, 308):
                self._client.raise_for_status(response.status)
            address = resolve_redirect(address, response.header("location"), self._shown)
        raise SourceError(f"{self._shown}: redirects more than {MAX_REDIRECTIONS} times; check the server")

    def _base(self, base: str, address: RtspAddress) -> str:
        """Return the base URL that the server declares, if it is valid.

        Cameras behind a router declare one that cannot be reached from here, but they expect it in requests.
        """
        try:
            found, _ = parse_url(base, self._shown)
        except SourceError:
            return address.url
        return found.url

    def _set_up(self, base: str, *, udp: bool) -> TrackReceiver:
        track = self._presentation.track
        self._client.framing.set_channels(self._channels, track.payload_types)
        if udp:
            self._udp = UdpPair(self._connection)
            wanted = f"RTP/AVP;unicast;client_port={self._udp.port}-{self._udp.port + 1}"
        else:
            wanted = "RTP/AVP/TCP;unicast;interleaved=0-1"
        url = join_control(base, track.control)
        response = self._client.request("SETUP", url, self._deadline, Transport=wanted)
        if response.status == 461:
            wanted, other = ("UDP", "tcp") if udp else ("TCP", "udp")
            raise UnsupportedStreamError(f"no unicast over {wanted} (461), transport: {other} may do")
        if response.status != 200:
            self._client.raise_for_status(response.status)
        self._begin_session(response.header("session"))
        transport = response.header("transport").lower()
        if (udp and "/tcp" in transport) or (not udp and "client_port" in transport and "/tcp" not in transport):
            raise UnsupportedStreamError("a server that uses another transport than the requested one")
        if self._udp is not None:
            self._client.add_udp(self._udp)
            self._server_ports = _pair("server_port", transport, 65535)
            if self._server_ports is not None:
                self._udp.set_peer_ports(self._server_ports)
        else:
            self._channels = _pair("interleaved", transport, 255) or self._channels
            self._client.framing.set_channels(self._channels, track.payload_types)
        return TrackReceiver(track, reorder_s=REORDER_S if udp else 0.0)

    def _begin_session(self, header: str) -> None:
        name, *parameters = header.split(";")
        name = name.strip()
        if len(name) > 256 or not all("!" <= char <= "~" for char in name):
            raise self._client.refusal("a session with an unusable identifier")
        self._client.session = name
        for parameter in parameters:
            key, _, value = parameter.partition("=")
            if key.strip().lower() == "timeout" and value.strip().isdecimal() and len(value) < 8:
                self._timeout_s = float(value)

    def _play(self) -> None:
        self._punch()
        response = self._client.request("PLAY", self._control, self._deadline, Range="npt=0.000-")
        if response.status != 200:
            self._client.raise_for_status(response.status)

    def _punch(self) -> None:
        if self._udp is not None and self._server_ports is not None:
            self._udp.send(0, PUNCH, self._server_ports[0])
            self._udp.send(1, self._media.receiver_report(time.monotonic()), self._server_ports[1])

    def _keep_alive_s(self) -> float:
        """Return the seconds until the next keep-alive: at least two fit into the server's time-out."""
        shortest, longest = KEEP_ALIVE_S
        return max(shortest, min(longest, self._timeout_s / 2)) * self._random.uniform(0.8, 0.95)

    def _send_due(self, now: float) -> None:
        if now >= self._keep_alive_at:
            self._keep_alive_at = now + self._keep_alive_s()
            method = "GET_PARAMETER" if "GET_PARAMETER" in self._public else "OPTIONS"
            self._client.send_request(method, self._control, now + SEND_S)
        if now >= self._report_at:
            self._report_at = now + REPORT_S * self._random.uniform(0.5, 1.5)
            report = self._media.receiver_report(now)
            if self._udp is None:
                self._client.send_packet(self._channels[1], report)
            elif self._server_ports is not None:
                self._udp.send(1, report, self._server_ports[1])

    def _handle_response(self, response: RtspMessage) -> None:
        """Handle the response to a keep-alive request."""
        self._client.update_challenge(response)
        if response.status == 401:
            # The nonce has expired. Wait before the next attempt: the server may count several as wrong passwords.
            self._keep_alive_at = min(self._keep_alive_at, time.monotonic() + KEEP_ALIVE_S[0])
        elif response.status == 454:
            raise StreamEndedError  # the session does not exist, or no longer
        elif response.status in (405, 501):
            self._public = ""


def _pair(name: str, transport: str, maximum: int) -> tuple[int, int] | None:
    """Parse a field like `interleaved=0-1`: two numbers, or one number and its successor."""
    match = re.search(rf"(?:^|;)\s*{name}\s*=\s*(\d{{1,5}})(?:\s*-\s*(\d{{1,5}}))?", transport)
    if match is None:
        return None
    first = int(match[1])
    second = int(match[2]) if match[2] else first + 1
    return (first, second) if max(first, second) <= maximum and first != second else None
