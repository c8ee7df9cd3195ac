"""Serve one film as any number of RTSP cameras to clients on this machine: H.264 over TCP.

The server hands all packets of a frame to the kernel at once and records when: the bench counts latency from there. The
clocks of the cameras are spread over one frame interval, like the clocks of real cameras.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import re
import secrets
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Final
from urllib.parse import urlsplit

from streamclf.bench.cameras.film import EncodedFilm

HOST: Final = "127.0.0.1"
CLOCK_HZ: Final = 90_000
FIRST_TIMESTAMP: Final = 90_000
"""Not 0: FFmpeg treats a stream that begins at 0 as one without a start time."""
SSRC: Final = 0x5EED
PAYLOAD_TYPE: Final = 96
MAX_PAYLOAD: Final = 1400
FU_A: Final = 28
REPORT_S: Final = 5.0
NTP_EPOCH: Final = 2_208_988_800
MAX_UNSENT_BYTES: Final = 2_000_000
"""A camera drops frames for a client that does not read."""
_RTP: Final = struct.Struct(">BBHII")
_INTERLEAVED: Final = struct.Struct(">cBH")


@dataclass(slots=True, kw_only=True)
class SentFrames:
    """The frames of one connection, in order."""

    sent_ns: list[int] = field(default_factory=list)
    """When the frame was sent, CLOCK_MONOTONIC; 0 for a frame that was dropped."""
    late_ns: list[int] = field(default_factory=list)
    """Delay of each frame after the time at which it was due."""


class CameraServer:
    """Serve `film` at `rtsp://…/cam0` and so on: to each client from the beginning, repeated without end."""

    def __init__(self, film: EncodedFilm, count: int) -> None:
        self.count = count
        self.rate = film.rate
        self.sent: dict[str, list[SentFrames]] = {f"cam{i}": [] for i in range(count)}
        self.frames = [tuple(_payloads(unit)) for unit in film.units]
        self.description = _session_description(film)
        self.answering = asyncio.Event()
        """Until this is set, no request is answered: a service that is not ready would lose a stream's first frames."""
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    async def listen(self) -> int:
        """Begin to accept connections; return the port."""
        self._server = await asyncio.start_server(self._accept, HOST, 0, backlog=1024)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def close(self) -> None:
        """Close all connections."""
        if self._server:
            self._server.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
                await _Connection(self, reader, writer).serve()
        finally:
            self._connections.discard(task)
            writer.close()


class _Connection:
    """Answer the requests of one client, and send it the film."""

    def __init__(self, server: CameraServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._server, self._reader, self._writer = server, reader, writer
        self._session = secrets.token_hex(4)
        self._player: asyncio.Task[None] | None = None
        self._sequence = self._packets = self._octets = 0

    async def serve(self) -> None:
        try:
            while await self._answer_one():
                pass
        finally:
            if self._player:
                self._player.cancel()

    async def _answer_one(self) -> bool:
        first = await self._reader.readexactly(1)
        if first == b"$":  # the client's own RTCP
            _, size = struct.unpack(">BH", await self._reader.readexactly(3))
            await self._reader.readexactly(size)
            return True
        text = (first + await self._reader.readuntil(b"\r\n\r\n")).decode("latin1")
        request, *lines = text.split("\r\n")
        method, _, rest = request.partition(" ")
        url = rest.partition(" ")[0]
        headers = {key.strip().lower(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
        await self._reader.readexactly(int(headers.get("content-length", 0)))
        await self._server.answering.wait()
        self._respond(method, url, headers)
        await self._writer.drain()
        return method != "TEARDOWN"

    def _respond(self, method: str, url: str, headers: dict[str, str]) -> None:
        sequence, session = headers.get("cseq", "0"), f"Session: {self._session}"
        name = urlsplit(url).path.strip("/").split("/")[0]
        if method == "OPTIONS":
            self._reply(sequence, "200 OK", "Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN, GET_PARAMETER")
        elif method in ("GET_PARAMETER", "SET_PARAMETER", "TEARDOWN"):
            self._reply(sequence, "200 OK", session)
        elif name not in self._server.sent:
            self._reply(sequence, "404 Not Found")
        elif method == "DESCRIBE":
            base = f"Content-Base: {url.rstrip('/')}/"
            self._reply(sequence, "200 OK", base, "Content-Type: application/sdp", body=self._server.description)
        elif method == "SETUP" and not re.search(r"RTP/AVP/TCP", headers.get("transport", "")):
            self._reply(sequence, "461 Unsupported Transport")
        elif method == "SETUP":
            transport = "Transport: RTP/AVP/TCP;unicast;interleaved=0-1"
            self._reply(sequence, "200 OK", transport, f"{session};timeout=60")
        elif method == "PLAY":
            rtp_info = f"url={url.rstrip('/')}/track0;seq=0;rtptime={FIRST_TIMESTAMP}"
            self._reply(sequence, "200 OK", session, f"RTP-Info: {rtp_info}")
            if self._player is None:
                self._player = asyncio.ensure_future(self._play(name))
        else:
            self._reply(sequence, "501 Not Implemented")

    def _reply(self, sequence: str, status: str, *headers: str, body: str = "") -> None:
        length = [f"Content-Length: {len(body)}"] if body else []
        lines = [f"RTSP/1.0 {status}", f"CSeq: {sequence}", *headers, *length, "", body]
        self._writer.write("\r\n".join(lines).encode())

    async def _play(self, name: str) -> None:
        server, sent = self._server, SentFrames()
        server.sent[name].append(sent)
        frames, interval_s = server.frames, float(1 / server.rate)
        phase = list(server.sent).index(name) / server.count
        began = (time.monotonic() // interval_s + 1 + phase) * interval_s
        reported = -REPORT_S
        number = 0
        while not self._writer.is_closing():
            due = began + float(number / server.rate)
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            timestamp = (FIRST_TIMESTAMP + _ticks(number, server.rate)) & 0xFFFFFFFF
            if due - reported >= REPORT_S:
                reported = due
                self._writer.write(self._sender_report(timestamp))
            can_send = self._writer.transport.get_write_buffer_size() < MAX_UNSENT_BYTES
            packets = self._pack(frames[number % len(frames)], timestamp) if can_send else b""
            now = time.monotonic()  # before `write`: a client may have the frame before `write` returns
            if can_send:
                self._writer.write(packets)
            sent.sent_ns.append(int(now * 1e9) if can_send else 0)
            sent.late_ns.append(int((now - due) * 1e9))
            number += 1

    def _pack(self, payloads: Sequence[bytes], timestamp: int) -> bytes:
        """Return the interleaved RTP packets of one frame; the last one carries the marker bit."""
        parts: list[bytes] = []
        for payload in payloads:
            marker = 0x80 if payload is payloads[-1] else 0
            header = _RTP.pack(0x80, PAYLOAD_TYPE | marker, self._sequence & 0xFFFF, timestamp, SSRC)
            parts += (_INTERLEAVED.pack(b"$", 0, len(header) + len(payload)), header, payload)
            self._sequence += 1
            self._octets += len(payload)
        self._packets += len(payloads)
        return b"".join(parts)

    def _sender_report(self, timestamp: int) -> bytes:
        """Return an RTCP sender report (RFC 3550, section 6.4.1): the wall clock time of `timestamp`."""
        wall_s = time.time()
        seconds, fraction = int(wall_s) + NTP_EPOCH, int(wall_s % 1 * 2**32)
        words = (SSRC, seconds, fraction, timestamp, self._packets & 0xFFFFFFFF, self._octets & 0xFFFFFFFF)
        report = struct.pack(">BBH6I", 0x80, 200, 6, *words)
        return _INTERLEAVED.pack(b"$", 1, len(report)) + report


def _ticks(number: int, rate: Fraction) -> int:
    return number * CLOCK_HZ * rate.denominator // rate.numerator


def _payloads(unit: Sequence[bytes]) -> list[bytes]:
    """Split one access unit into RTP payloads (RFC 6184): single NAL units and FU-A."""
    payloads: list[bytes] = []
    for nal in unit:
        if len(nal) <= MAX_PAYLOAD:
            payloads.append(nal)
            continue
        indicator, kind, body, step = nal[0] & 0xE0 | FU_A, nal[0] & 31, nal[1:], MAX_PAYLOAD - 2
        for start in range(0, len(body), step):
            is_first, is_last = start == 0, start + step >= len(body)
            payloads.append(bytes([indicator, is_first << 7 | is_last << 6 | kind]) + body[start : start + step])
    return payloads


def _session_description(film: EncodedFilm) -> str:
    """Return the SDP of the film."""
    sets = [film.parameter_set(kind) for kind in (7, 8)]
    encoded = ",".join(base64.b64encode(part).decode() for part in sets)
    profile = sets[0][1:4].hex()
    lines = [
        "v=0",
        f"o=- 0 0 IN IP4 {HOST}",
        "s=streamclf bench",
        f"c=IN IP4 {HOST}",
        "t=0 0",
        "a=control:*",
        f"m=video 0 RTP/AVP {PAYLOAD_TYPE}",
        f"a=rtpmap:{PAYLOAD_TYPE} H264/{CLOCK_HZ}",
        f"a=fmtp:{PAYLOAD_TYPE} packetization-mode=1;profile-level-id={profile};sprop-parameter-sets={encoded}",
        f"a=framerate:{float(film.rate):g}",
        "a=control:track0",
        "",
    ]
    return "\r\n".join(lines)
