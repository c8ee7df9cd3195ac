"""An RTSP server for tests that can fail in every way a camera does. Loopback only.

    with RtspServer({"cam": film()}) as server:
        read(server.url("cam"))
        server.fault("cam", stalled=True)

Faults, per mount, from the next frame on, for all its clients:

| fault | does |
|---|---|
| `stalled` | sends nothing; the connection stays open and requests are still answered |
| `frozen` | neither sends, reads nor answers, like a process under SIGSTOP |
| `drop`, `corrupt` | probability per RTP packet to be lost, to have bits flipped |
| `jump_s` | added to the time stamps, negative: backwards |
| `film` | another film: resolution, frame rate |
| `rate` | times real time: 0.5 slow, 20 a flood |
| `junk` | so many random bytes between two interleaved packets, once |
| `status` | DESCRIBE is answered with this code |
| `blackhole` | no request is answered |

`disconnect` closes all connections of a mount, orderly or by RST; `stop` is the server's death.
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
from support.rtp import CLOCK_HZ, HEADER_BYTES, Packetizer

HOST = "127.0.0.1"
REALM = "streamclf"
CALL_S = 5.0
MAX_UNSENT_BYTES = 2_000_000
REPORT_INTERVAL_S = 5.0
TICK_S = 0.02
LATE_S = 0.5

ResultT = TypeVar("ResultT")


@dataclass(frozen=True, slots=True)
class Faults:
    """What is wrong with a mount at the moment."""

    stalled: bool = False
    frozen: bool = False
    blackhole: bool = False
    drop: float = 0.0
    corrupt: float = 0.0
    jump_s: float = 0.0
    rate: float = 1.0
    status: int = 0
    junk: int = 0


@dataclass(slots=True)
class Mount:
    """One stream of the server."""

    film: Film
    faults: Faults = Faults()
    random: random.Random = field(default_factory=lambda: random.Random(1))
    clients: set[Connection] = field(default_factory=set)
    plays: int = 0
    late_at: float = 0.0
    """Monotonic time at which this server, for want of a processor, last sent a picture `LATE_S` too late or more."""
    sent_at: dict[int, float] = field(default_factory=dict)
    """Monotonic time at which the last packet of frame n was handed to the socket, for the newest client."""

    @property
    def silent(self) -> bool:
        """Whether requests go unanswered."""
        return self.faults.frozen or self.faults.blackhole


class RtspServer:
    """Serves films, each from its beginning to every client and over and over, on an event loop of its own thread."""

    def __init__(
        self,
        films: Mapping[str, Film],
        *,
        port: int = 0,
        auth: tuple[str, str] | None = None,
        scheme: Literal["digest", "basic"] = "digest",
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.mounts = {name: Mount(film) for name, film in films.items()}
        self.port = port
        self.auth = auth
        self.scheme = scheme
        self.tls = tls
        self._loop = asyncio.new_event_loop()
        self._server: asyncio.Server | None = None
        self._connections: set[Connection] = set()
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
        """The URL of a mount, with credentials where the server asks for some; `password` instead of the right one."""
        protocol = "rtsp" if self.tls is None else "rtsps"
        if self.auth is None:
            return f"{protocol}://{HOST}:{self.port}/{name}"
        user, right = self.auth
        user_part = f"{quote(user, safe='')}:{quote(right if password is None else password, safe='')}"
        return f"{protocol}://{user_part}@{HOST}:{self.port}/{name}"

    def fault(self, name: str, *, film: Film | None = None, **faults: Any) -> None:
        """Set some of the faults of a mount, see the table above."""
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
        """Die: every connection is reset, the port is closed. May be called twice."""
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
        connection = Connection(self, reader, writer)
        self._connections.add(connection)
        try:
            with suppress(asyncio.CancelledError):  # streams would report the server's own end as an error
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


class Connection:
    """One client: its requests, and the task that plays to it."""

    def __init__(self, server: RtspServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._server = server
        self._reader = reader
        self._writer = writer
        self._session = secrets.token_hex(4)
        self._nonce = secrets.token_hex(8)
        self._mount: Mount | None = None
        self._udp: tuple[socket.socket, int] | None = None
        self._player: asyncio.Task[None] | None = None

    async def serve(self) -> None:
        """Answer requests until the client goes."""
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
            await self._reader.readexactly(length)
            return True
        text = (first + await self._reader.readuntil(b"\r\n\r\n")).decode("latin1")
        request, *lines = text.split("\r\n")
        if request.count(" ") != 2:
            return False  # a client that took junk for the stream's end of a packet is out of step, as its camera was
        method, url, _ = request.split(" ")
        headers = {key.strip().lower(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
        await self._reader.readexactly(int(headers.get("content-length", 0)))
        mount = self._server.mounts.get(urlsplit(url).path.strip("/").split("/")[0])
        while mount is not None and mount.silent:
            await asyncio.sleep(TICK_S)
        return await self._answer(method, url, headers, mount)

    async def _answer(self, method: str, url: str, headers: dict[str, str], mount: Mount | None) -> bool:
        sequence = headers.get("cseq", "0")
        session = f"Session: {self._session}"
        if method == "OPTIONS":
            self._reply(sequence, 200, "Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN, GET_PARAMETER")
        elif not self._authorized(method, headers.get("authorization", "")):
            challenge = f'Digest realm="{REALM}", nonce="{self._nonce}"'
            if self._server.scheme == "basic":
                challenge = f'Basic realm="{REALM}"'
            self._reply(sequence, 401, f"WWW-Authenticate: {challenge}")
        elif mount is None:
            self._reply(sequence, 404)
        elif method == "DESCRIBE" and mount.faults.status:
            self._reply(sequence, mount.faults.status)
        elif method == "DESCRIBE":
            base = f"Content-Base: {url.rstrip('/')}/"
            self._reply(sequence, 200, base, "Content-Type: application/sdp", body=_description(mount.film))
        elif method == "SETUP":
            self._mount = mount
            self._reply(sequence, 200, self._transport(headers["transport"]), f"{session};timeout=60")
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
        given = dict(re.findall(r'(\w+)="([^"]*)"', value))
        expected = _md5(_md5(user, REALM, password), self._nonce, _md5(method, given.get("uri", "")))
        return given.get("username") == user and given.get("response") == expected

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
        packetizer = Packetizer(ssrc=0x5EED, sequence=7_000)
        mount.plays += 1
        mount.sent_at.clear()
        film, position, sent_s, due = mount.film, 0, 0.0, time.monotonic()
        reported = 0.0
        while not self._writer.is_closing():
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            if time.monotonic() - due > LATE_S and mount.faults == Faults():
                mount.late_at = time.monotonic()
            while mount.faults.frozen:
                await asyncio.sleep(TICK_S)
            if mount.film is not film:
                film, position = mount.film, 0
            timestamp = CLOCK_HZ + int((sent_s + mount.faults.jump_s) * CLOCK_HZ)
            if not mount.faults.stalled:
                self._send_junk(mount)
                if time.monotonic() - reported > REPORT_INTERVAL_S:
                    reported = time.monotonic()
                    self._send(packetizer.sender_report(time.time(), timestamp), channel=1)
                for packet in packetizer.packets(film.units[position % len(film.units)], timestamp):
                    self._send_damaged(packet, mount)
                mount.sent_at[position] = time.monotonic()
            position += 1
            sent_s += 1 / film.fps
            due += 1 / film.fps / mount.faults.rate

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
            with suppress(OSError):  # a full socket loses packets, as UDP does
                sock.sendto(packet, (HOST, port + channel))
        elif self._writer.transport.get_write_buffer_size() < MAX_UNSENT_BYTES:  # a camera drops for slow readers
            self._writer.write(struct.pack(">cBH", b"$", channel, len(packet)) + packet)


def _description(film: Film) -> str:
    sps, pps = film.parameter_set(7), film.parameter_set(8)
    sets = ",".join(base64.b64encode(part).decode() for part in (sps, pps))
    lines = [
        "v=0",
        f"o=- 0 0 IN IP4 {HOST}",
        "s=test",
        "c=IN IP4 0.0.0.0",
        "t=0 0",
        "a=control:*",
        "m=video 0 RTP/AVP 96",
        f"a=rtpmap:96 H264/{CLOCK_HZ}",
        f"a=fmtp:96 packetization-mode=1;profile-level-id={sps[1:4].hex()};sprop-parameter-sets={sets}",
        f"a=framerate:{film.fps:g}",
        "a=control:track0",
        "",
    ]
    return "\r\n".join(lines)


def _md5(*parts: str) -> str:
    return hashlib.md5(":".join(parts).encode()).hexdigest()
