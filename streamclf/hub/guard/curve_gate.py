"""The hub's side of CURVE: who may connect (ZAP, ZeroMQ RFC 27), read again whenever the allow-list changes."""

from __future__ import annotations

import logging
import os
import threading
import time
from pathlib import Path
from typing import Final

import zmq
from zmq.utils import z85

from streamclf.errors import UsageError
from streamclf.hub.socket_thread import SocketThread
from streamclf.net.curve_keys import Certificate, load_certificate

log = logging.getLogger(__name__)

MAX_ALLOWED: Final = 4096
_ZAP_ENDPOINT: Final = "inproc://zeromq.zap.01"
_DOMAIN: Final = b"streamclf"
_FRESH_S = 1.0


class AllowList:
    """The public keys of `*.key` files in a directory. A directory that cannot be read allows nobody. Thread-safe."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._lock = threading.Lock()
        self._names: dict[bytes, str] = {}
        self._state: object = None
        self._read_at = 0.0
        self._refresh(0.0)

    def __len__(self) -> int:
        return len(self._names)

    def name_of(self, public: bytes) -> str | None:
        """The name of the file that allows this key (Z85), or None: at most a second after that has changed."""
        with self._lock:
            self._refresh(_FRESH_S)
            if public not in self._names:
                # It may have been put there a moment ago, and most clients do not come again when they are refused.
                self._refresh(0.0)
            return self._names.get(public)

    def _refresh(self, fresh_s: float) -> None:
        now = time.monotonic()
        if self._state is not None and now - self._read_at < fresh_s:
            return
        self._read_at = now
        state = self._look()
        if state == self._state:
            return
        self._state = state
        self._names = self._load()
        log.info("%s: %d keys may connect", self._directory, len(self._names))

    def _look(self) -> object:
        """Changes whenever a file comes, goes or is written."""
        try:
            with os.scandir(self._directory) as entries:
                names = sorted(entry.name for entry in entries if entry.name.endswith(".key"))
        except OSError as error:
            return f"cannot be read: {error.strerror}"
        return [(name, *_stamp(self._directory / name)) for name in names]

    def _load(self) -> dict[bytes, str]:
        if isinstance(self._state, str):
            log.error("%s: %s; nobody may connect until it can be", self._directory, self._state)
            return {}
        names: dict[bytes, str] = {}
        for path in sorted(self._directory.glob("*.key"))[:MAX_ALLOWED]:
            try:
                certificate = load_certificate(path)
            except UsageError as error:
                log.error("allow-list: %s", error)
                continue
            if certificate.secret is not None:
                log.error("allow-list: %s holds a secret key, which belongs to its user alone; make a new pair", path)
            names[certificate.public] = path.stem
        return names


def _stamp(path: Path) -> tuple[int, ...]:
    try:
        status = path.stat()
    except OSError:
        return ()  # a file that has just been removed must not lock out all the others
    return status.st_mtime_ns, status.st_size, status.st_ino


class CurveGate:
    """Answers ZeroMQ's question about each client that has proven to own its key, in a thread of its own."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], keys: Certificate, allow: AllowList) -> None:
        self._keys, self._allow = keys, allow
        self._socket = context.socket(zmq.REP)
        self._socket.linger = 0
        self._socket.bind(_ZAP_ENDPOINT)
        self.refused = 0
        self._attendant = SocketThread("gate", self._socket, self._answer_one)

    def guard(self, socket: zmq.Socket[bytes]) -> None:
        """Make a socket a CURVE server that asks this gate, before it is bound."""
        assert self._keys.secret is not None  # checked when it was loaded
        socket.curve_server = True
        socket.curve_secretkey = self._keys.secret
        socket.zap_domain = _DOMAIN
        # Without this libzmq lets everybody in when nobody answers its question.
        socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)

    def permits(self, user: str | None) -> bool:
        """Whether the peer whose key is `user` may still be there."""
        return user is not None and self._allow.name_of(user.encode()) is not None

    def close(self) -> None:
        """End the thread; from then on nobody new can connect."""
        self._attendant.close()

    def _answer_one(self) -> None:
        self._socket.send_multipart(self._answer(self._socket.recv_multipart()))

    def _answer(self, request: list[bytes]) -> list[bytes]:
        match request:
            case [b"1.0", sequence, domain, address, _, b"CURVE", key] if domain == _DOMAIN and len(key) == 32:
                public = z85.encode(key)
                if self._allow.name_of(public) is not None:
                    # The key is the user: its name in the list may change hands.
                    return [b"1.0", sequence, b"200", b"OK", public, b""]
                self._note_refused(address, public)
                return [b"1.0", sequence, b"400", b"not on the allow-list", b"", b""]
            case _:
                sequence = request[1] if len(request) > 1 else b""
                return [b"1.0", sequence, b"500", b"not a question of ours", b"", b""]

    def _note_refused(self, address: bytes, public: bytes) -> None:
        self.refused += 1
        if self.refused <= 10 or self.refused % 1000 == 0:
            log.warning(
                "refused a client at %s (%d so far): its public key %s is not on the allow-list",
                address.decode("ascii", "replace"),
                self.refused,
                public.decode("ascii", "replace"),
            )
