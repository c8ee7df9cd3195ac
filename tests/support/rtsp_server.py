"""An RTSP server for tests, which can fail in every way that a camera does. Loopback only.

    with RtspServer({"cam": film()}) as server:
        read(server.url("cam"))
        server.fault("cam", stalled=True)

Faults apply to one mount, from the next frame on, for all its clients:

| fault | effect |
|---|---|
| `stalled` | sends nothing; the connection stays open and requests are still answered |
| `frozen` | does not send, read or answer, like a process under SIGSTOP |
| `drop`, `corrupt` | probability for each RTP packet to be lost, or to have bits flipped |
| `jump_s` | seconds added to the time stamps; negative: backwards |
| `film` | plays another film: resolution, frame rate |
| `rate` | speed relative to real time: 0.5 is slow, 20 is a flood |
| `junk` | sends this many random bytes between two interleaved packets, once |
| `status` | answers DESCRIBE with this status |
| `blackhole` | answers no request |

`disconnect` closes all connections of a mount, orderly or by RST; `stop` simulates the server's death. `Traits` are
properties of some cameras that are not faults. `requests` and `reports` contain what clients have sent.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import random
import re
import secrets
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any, Literal, TypeVar
from urllib.parse import quote, urlsplit

from support.clips import Film
from support.rtp import CLOCK_HZ, HEADER_BYTES, Marker, Packetizer

HOST = "127.0.0.1"
REALM = "streamclf"
CALL_S = 30.0
MAX_UNSENT_BYTES = 2_000_000
REPORT_INTERVAL_S = 5.0
TICK_S = 0.02
LATE_S = 0.5

ResultT = TypeVar("ResultT")


@dataclass(frozen=True, slots=True)
class Faults:
    """The current faults of a mount."""

    stalled: bool = False
    frozen: bool = False
    blackhole: bool = False
    drop: float = 0.0
    corrupt: float = 0.0
    jump_s: float = 0.0
    rate: float = 1.0
    status: int = 0
    junk: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Traits:
    """The properties of a server, the same for all its mounts."""

    marker: Marker = "last"
    aggregate: bool = False
    """Send several small NAL units in one packet."""
    unordered: bool = False
    """Declare slices out of order, although they are not: a client that does not support that must refuse."""
    sprop: bool = True
    """Put the parameter sets into the SDP."""
    in_band: bool = True
    """Put the parameter sets into the stream."""
    sdp: str | None = None
    """Send this SDP instead of the film's own."""
    audio: bool = False
    """List an audio track first, whose SETUP is an error."""
    algorithm: str = "MD5"
    qop: bool = False
    nonce_uses: int = 0
    """Requests after which a nonce expires; 0: never."""
    timeout_s: int = 60
    enforce_timeout: bool = False
    """End a session without a request for that long."""
    public: str = "OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN, GET_PARAMETER"
    redirect: str = ""
    """Redirect DESCRIBE of the mount `old` to this URL."""
    refuse: int = 0
    """Answer SETUP with this status."""
    timestamp: int = CLOCK_HZ
    sequence: int = 7_000
    ssrc_every: int = 0
    """Frames after which another sender, with other counters, continues; 0: never."""
    shuffle: float = 0.0
    """Probability that a packet changes places with the next one."""
    first: int = 0
    """Number of the frame with which each client begins, as if it had joined in the middle of a group of pictures."""
    stamp: Callable[[int], int] | None = None
    """Send the result for each time stamp in its place."""
    bye_after: int = 0
    """Frames after which it sends a BYE and stops; 0: never."""


@dataclass(slots=True)
class Mount:
    """One stream of the server."""

    film: Film
    faults: Faults = Faults()
    random: random.Random = field(default_factory=lambda: random.Random(1))
    clients: set[ServerConnection] = field(default_factory=set)
    plays: int = 0
    late_at: float = 0.0
    """Monotonic time at which this server, on a busy machine, last sent a frame at least `LATE_S` too late."""
    sent_at: dict[int, float] = field(default_factory=dict)
    """Monotonic time at which the last packet of frame n was passed to the socket, for the newest client."""

    @property
    def silent(self) -> bool:
        """Whether requests get no answer."""
        return self.faults.frozen or self.faults.blackhole


class RtspServer:
    """Serve films in a loop, from the beginning to each client, on an event loop in a thread of its own."""

    def __init__(
        self,
        films: Mapping[str, Film],
        *,
        port: int = 0,
        auth: tuple[str, str] | None = None,
        scheme: Literal["digest", "basic"] = "digest",
        tls: ssl.SSLContext | None = None,
        traits: Traits = Traits(),
    ) -> None:
        self.traits = traits
        self.requests: list[tuple[str, str]] = []
        self.reports: list[bytes] = []
        self.mounts = {name: Mount(film) for name, film in films.items()}
        self.port = port
        self.auth = auth
        self.scheme = scheme
        self.tls = tls
        self._loop = asyncio.new_event_loop()
        self._server: asyncio.Server | None = None
        self._connections: set[ServerConnection] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, name="rtsp-server", daemon=True)

    def __enter__(self) -> RtspServer:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(CALL_S)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def url(self, name: str, password: str | None = None) -> str:
        """Return the URL of a mount, with credentials if the server needs them. `password` replaces the right one."""
        protocol = "rtsp" if self.tls is None else "rtsps"
        if self.auth is None:
            return f"{protocol}://{HOST}:{self.port}/{name}"
        user, right = self.auth
        user_part = f"{quote(user, safe='')}:{quote(right if password is None else password, safe='')}"
        return f"{protocol}://{user_part}@{HOST}:{self.port}/{name}"

    def fault(self, name: str, *, film: Film | None = None, **faults: Any) -> None:
        """Set faults of a mount; see the table above."""
        mount = self.mounts[name]

        def change() -> None:
            mount.faults = replace(mount.faults, **faults)
            if film is not None:
                mount.film = film

        self._call(change)

    def heal(self, name: str) -> None:
        """End all faults of a mount."""
        mount = self.mounts[name]
        self._call(lambda: setattr(mount, "faults", Faults()))

    def disconnect(self, name: str, *, reset: bool = False) -> None:
        """Close all connections of a mount."""

        def close_all() -> None:
            for client in tuple(self.mounts[name].clients):
                client.close(reset=reset)

        self._call(close_all)

    def stop(self) -> None:
        """Reset every connection and close the port. May be called twice."""
        if not self._thread.is_alive():
            return
        asyncio.run_coroutine_threadsafe(self._shut_down(), self._loop).result(CALL_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(CALL_S)
        self._loop.close()

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._accept, HOST, self.port, ssl=self.tls)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = ServerConnection(self, reader, writer)
        self._connections.add(connection)
        try:
            with suppress(asyncio.CancelledError):  # asyncio would report the server's own stop as an error
                await connection.serve()
        finally:
            self._connections.discard(connection)

    async def _shut_down(self) -> None:
        assert self._server is not None
        self._server.close()
        for connection in tuple(self._connections):
            connection.close(reset=True)
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _call(self, function: Callable[[], ResultT]) -> ResultT:
        async def run() -> ResultT:
            return function()

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(CALL_S)


class ServerConnection:
    """The connection of one client: its requests, and the task that plays to it."""

    def __init__(self, server: RtspServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._server = server
        self._reader = reader
        self._writer = writer
        self._session = secrets.token_hex(4)
        self._nonce = secrets.token_hex(8)
        self._mount: Mount | None = None
        self._udp: tuple[socket.socket, int] | None = None
        self._player: asyncio.Task[None] | None = None
        self._last_request_at = time.monotonic()
        self._authorized_requests = 0
        self._stale = False

    async def serve(self) -> None:
        """Answer requests until the client disconnects."""
        with suppress(asyncio.IncompleteReadError, ConnectionError, asyncio.LimitOverrunError):
            while await self._serve_one():
                pass
        self.close()

    def close(self, *, reset: bool = False) -> None:
        """Stop playing and close, orderly or by RST."""
        if self._player is not None:
            self._player.cancel()
        if self._mount is not None:
            self._mount.clients.discard(self)
        if self._udp is not None:
            self._udp[0].close()
            self._udp = None
        if reset and not self._writer.is_closing():
            sock = self._writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._writer.transport.abort()
        else:
            self._writer.close()

    async def _serve_one(self) -> bool:
        first = await self._reader.readexactly(1)
        if first == b"$":  # the client's own RTCP
            _, length = struct.unpack(">BH", await self._reader.readexactly(3))
            self._server.reports.append(await self._reader.readexactly(length))
            return True
        text = (first + await self._reader.readuntil(b"\r\n\r\n")).decode("latin1")
        request, *lines = text.split("\r\n")
        if request.count(" ") != 2:
            return False  # a client that received junk may send junk, too
        method, url, _ = request.split(" ")
        self._server.requests.append((method, url))
        self._last_request_at = time.monotonic()
        headers = {key.strip().lower(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
        await self._reader.readexactly(int(headers.get("content-length", 0)))
        mount = self._server.mounts.get(urlsplit(url).path.strip("/").split("/")[0])
        while mount is not None and mount.silent:
            await asyncio.sleep(TICK_S)
        return await self._answer(method, url, headers, mount)

    async def _answer(self, method: str, url: str, headers: dict[str, str], mount: Mount | None) -> bool:
        sequence = headers.get("cseq", "0")
        session = f"Session: {self._session}"
        traits = self._server.traits
        if method == "OPTIONS":
            self._reply(sequence, 200, f"Public: {traits.public}")
        elif not self._authorized(method, headers.get("authorization", "")):
            self._reply(sequence, 401, f"WWW-Authenticate: {self._challenge()}")
        elif method == "DESCRIBE" and traits.redirect and "/old" in url:
            self._reply(sequence, 302, f"Location: {traits.redirect}")
        elif method == "SETUP" and (traits.refuse or "audio" in url):
            self._reply(sequence, traits.refuse or 500)
        elif mount is None:
            self._reply(sequence, 404)
        elif method == "DESCRIBE" and mount.faults.status:
            self._reply(sequence, mount.faults.status)
        elif method == "DESCRIBE":
            base = f"Content-Base: {url.rstrip('/')}/"
            self._reply(sequence, 200, base, "Content-Type: application/sdp", body=_description(mount.film, traits))
        elif method == "SETUP":
            self._mount = mount
            self._reply(sequence, 200, self._transport(headers["transport"]), f"{session};timeout={traits.timeout_s}")
        elif method in ("PLAY", "TEARDOWN", "GET_PARAMETER", "PAUSE") and headers.get("session") != self._session:
            self._reply(sequence, 454)  # a request must name its session (RFC 2326, section 12.37)
        elif method == "PLAY" and self._mount is mount:
            self._reply(sequence, 200, session, f"RTP-Info: url={url}/track0")
            if self._player is None:
                mount.clients.add(self)
                self._player = asyncio.ensure_future(self._play(mount))
        elif method in ("TEARDOWN", "GET_PARAMETER", "PAUSE"):
            self._reply(sequence, 200, session)
        else:
            self._reply(sequence, 501)
        await self._writer.drain()
        return method != "TEARDOWN"

    def _reply(self, sequence: str, code: int, *headers: str, body: str = "") -> None:
        lines = [f"RTSP/1.0 {code} {'OK' if code == 200 else 'Error'}", f"CSeq: {sequence}", *headers]
        if body:
            lines.append(f"Content-Length: {len(body)}")
        self._writer.write(("\r\n".join(lines) + "\r\n\r\n" + body).encode())

    def _authorized(self, method: str, header: str) -> bool:
        if self._server.auth is None:
            return True
        user, password = self._server.auth
        kind, _, value = header.partition(" ")
        if kind.lower() != self._server.scheme:
            return False
        if self._server.scheme == "basic":
            return value == base64.b64encode(f"{user}:{password}".encode()).decode()
        given = dict(re.findall(r'(\w+)="?((?:(?<=")(?:[^"\\]|\\.)*)|[^\s,"]+)', value))
        given["username"] = re.sub(r"\\(.)", r"\1", given.get("username", ""))
        traits = self._server.traits
        if given.get("nonce") != self._nonce:
            return False
        middle = (given.get("nc", ""), given.get("cnonce", ""), "auth") if traits.qop else ()
        secret = _hash(traits.algorithm, user, REALM, password)
        asked = _hash(traits.algorithm, method, given.get("uri", ""))
        right = given.get("response") == _hash(traits.algorithm, secret, self._nonce, *middle, asked)
        if given.get("username") != user or not right:
            return False
        self._authorized_requests += 1
        if traits.nonce_uses and self._authorized_requests > traits.nonce_uses:
            self._nonce, self._authorized_requests, self._stale = secrets.token_hex(8), 0, True
            return False
        return True

    def _challenge(self) -> str:
        if self._server.scheme == "basic":
            return f'Basic realm="{REALM}"'
        traits = self._server.traits
        parts = [f'Digest realm="{REALM}"', f'nonce="{self._nonce}"']
        parts += [f"algorithm={traits.algorithm}"] if traits.algorithm != "MD5" else []
        parts += ['qop="auth,auth-int"'] if traits.qop else []
        parts += ["stale=true"] if self._stale else []
        self._stale = False
        return ", ".join(parts)

    def _transport(self, wanted: str) -> str:
        if "RTP/AVP/TCP" in wanted:
            return "Transport: RTP/AVP/TCP;unicast;interleaved=0-1"
        match = re.search(r"client_port=(\d+)", wanted)
        assert match, wanted
        client_port = int(match[1])
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.setblocking(False)
        sock.bind((HOST, 0))
        self._udp = (sock, client_port)
        port = sock.getsockname()[1]
        ports = f"client_port={client_port}-{client_port + 1};server_port={port}-{port + 1}"
        return f"Transport: RTP/AVP;unicast;{ports}"

    async def _play(self, mount: Mount) -> None:
        traits = self._server.traits
        packetizer = self._packetizer(mount, 0x5EED)
        mount.plays += 1
        mount.sent_at.clear()
        film, position, sent_s, due = mount.film, traits.first, 0.0, time.monotonic()
        reported = 0.0
        while not self._writer.is_closing():
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            if time.monotonic() - due > LATE_S and mount.faults == Faults():
                mount.late_at = time.monotonic()
            while mount.faults.frozen:
                await asyncio.sleep(TICK_S)
            if mount.film is not film:
                film, position = mount.film, 0
            if traits.enforce_timeout and time.monotonic() - self._last_request_at > traits.timeout_s:
                self.close()
                return
            if traits.ssrc_every and position and position % traits.ssrc_every == 0:
                packetizer = self._packetizer(mount, 0x5EED + position)
            if traits.bye_after and position == traits.bye_after:
                self._send(packetizer.bye(), channel=1)
                return
            restarts = position // traits.ssrc_every if traits.ssrc_every else 0
            place = position % len(film.units)
            ahead_s = (
                (film.order[place] - place) / film.fps if film.order else 0.0
            )  # displayed later, or earlier, than sent
            timestamp = traits.timestamp + int((sent_s + ahead_s + mount.faults.jump_s + 1000 * restarts) * CLOCK_HZ)
            if traits.stamp is not None:
                timestamp = traits.stamp(timestamp)
            if not mount.faults.stalled:
                self._send_junk(mount)
                if time.monotonic() - reported > REPORT_INTERVAL_S:
                    reported = time.monotonic()
                    self._send(packetizer.sender_report(time.time(), timestamp), channel=1)
                unit = film.units[position % len(film.units)]
                if not traits.in_band:
                    unit = tuple(nal for nal in unit if film.kind(nal) not in (7, 8, 32, 33, 34))
                for packet in self._shuffled(list(packetizer.packets(unit, timestamp)), mount):
                    self._send_damaged(packet, mount)
                mount.sent_at[position] = time.monotonic()
            position += 1
            sent_s += 1 / film.fps
            due += 1 / film.fps / mount.faults.rate

    def _packetizer(self, mount: Mount, ssrc: int) -> Packetizer:
        traits = self._server.traits
        hevc = mount.film.codec == "libx265"
        return Packetizer(
            ssrc=ssrc, sequence=traits.sequence, hevc=hevc, marker=traits.marker, aggregate=traits.aggregate
        )

    def _shuffled(self, packets: list[bytes], mount: Mount) -> list[bytes]:
        for i in range(len(packets) - 1):
            if mount.random.random() < self._server.traits.shuffle:
                packets[i], packets[i + 1] = packets[i + 1], packets[i]
        return packets

    def _send_damaged(self, packet: bytes, mount: Mount) -> None:
        faults, rng = mount.faults, mount.random
        if rng.random() < faults.drop:
            return
        if rng.random() < faults.corrupt:
            damaged = bytearray(packet)
            for _ in range(5):
                damaged[rng.randrange(HEADER_BYTES + 2, len(damaged))] ^= 1 << rng.randrange(8)
            packet = bytes(damaged)
        self._send(packet, channel=0)

    def _send_junk(self, mount: Mount) -> None:
        if mount.faults.junk and self._udp is None:
            self._writer.write(mount.random.randbytes(mount.faults.junk))
            mount.faults = replace(mount.faults, junk=0)

    def _send(self, packet: bytes, *, channel: int) -> None:
        if self._udp is not None:
            sock, port = self._udp
            with suppress(OSError):  # a full socket loses packets, like UDP
                sock.sendto(packet, (HOST, port + channel))
        elif (
            self._writer.transport.get_write_buffer_size() < MAX_UNSENT_BYTES
        ):  # a camera drops packets for slow clients
            self._writer.write(struct.pack(">cBH", b"$", channel, len(packet)) + packet)


def _description(film: Film, traits: Traits) -> str:
    if traits.sdp is not None:
        return traits.sdp
    lines = ["v=0", f"o=- 0 0 IN IP4 {HOST}", "s=test", "c=IN IP4 0.0.0.0", "t=0 0", "a=control:*"]
    if traits.audio:
        lines += ["m=audio 0 RTP/AVP 0", "a=rtpmap:0 PCMU/8000", "a=control:audio"]
    lines += ["m=video 0 RTP/AVP 96", *_format(film, traits), f"a=framerate:{film.fps:g}"]
    return "\r\n".join([*lines, "a=control:track0", ""])


def _format(film: Film, traits: Traits) -> list[str]:
    if film.codec == "libx265":
        names = {"sprop-vps": 32, "sprop-sps": 33, "sprop-pps": 34}
        given = [f"{name}={base64.b64encode(film.parameter_set(kind)).decode()}" for name, kind in names.items()]
        given = (given if traits.sprop else []) + (["sprop-max-don-diff=3"] if traits.unordered else [])
        return [f"a=rtpmap:96 H265/{CLOCK_HZ}", *([f"a=fmtp:96 {';'.join(given)}"] if given else [])]
    sps, pps = film.parameter_set(7), film.parameter_set(8)
    sets = ",".join(base64.b64encode(part).decode() for part in (sps, pps))
    given = [f"packetization-mode={2 if traits.unordered else 1}", f"profile-level-id={sps[1:4].hex()}"]
    given += [f"sprop-parameter-sets={sets}"] if traits.sprop else []
    return [f"a=rtpmap:96 H264/{CLOCK_HZ}", f"a=fmtp:96 {';'.join(given)}"]


def _hash(algorithm: str, *parts: str) -> str:
    name = {"MD5": "md5", "SHA-256": "sha256"}[algorithm]
    return hashlib.new(name, ":".join(parts).encode()).hexdigest()
