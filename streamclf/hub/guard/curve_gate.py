"""Decide which CURVE keys may connect to the hub (ZAP, ZeroMQ RFC 27), following changes of the allow-list."""

from __future__ import annotations

import logging
import math
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
from streamclf.net.trusted_files import check_key_directory

log = logging.getLogger(__name__)

MAX_ALLOWED: Final = 4096
_ZAP_ENDPOINT: Final = "inproc://zeromq.zap.01"
_DOMAIN: Final = b"streamclf"
_REFRESH_S = 1.0
"""The directory is read again for a key if the last reading is older than this."""
_REPORT_AGAIN_S: Final = 3600.0
_MAX_REPORTS_PER_MIN: Final = 10
_MAX_REPORTED: Final = 100


class AllowList:
    """The public keys of the `*.key` files in a directory. If others may change it, no key is allowed. Thread-safe.

    `own` is the key of the service's own outlets, which is allowed besides them.

    The lock is never held while files are read: the hub's loop must not wait for a file system.
    """

    def __init__(self, directory: Path, own: str | None = None) -> None:
        self._directory = directory
        self._own = own.encode() if own else None
        self._reading = threading.Lock()
        """Held by the thread that reads the directory; the others go on with the keys that were read last."""
        self._names: dict[bytes, str] = {}
        self._state: object = None
        self._read_at = 0.0
        self._refresh(0.0, wait=True)

    def __len__(self) -> int:
        return len(self._names)

    def name_of(self, public: bytes) -> str | None:
        """Return the name of the file that allows this key (Z85), or None.

        For an unknown key the directory is read at once: the file may be new, and most clients do not try again after a
        refusal.
        """
        if public == self._own:
            return "outlets of the service"
        self._refresh(_REFRESH_S, wait=True)
        if public not in self._names:
            self._refresh(0.0, wait=True)
        return self._names.get(public)

    def allows(self, public: bytes) -> bool:
        """Return whether the key was allowed within the last second. Does not wait while another thread reads."""
        self._refresh(_REFRESH_S, wait=False)
        return public in self._names or public == self._own

    def _refresh(self, max_age_s: float, *, wait: bool) -> None:
        if not self._reading.acquire(blocking=wait):
            return
        try:
            now = time.monotonic()
            if self._state is not None and now - self._read_at < max_age_s:
                return
            self._read_at = now
            state = self._read_state()
            if state != self._state:
                self._state = state
                self._names = self._load(state)
                log.info("%s: %d key(s) may connect", self._directory, len(self._names))
        finally:
            self._reading.release()

    def _read_state(self) -> str | list[tuple[object, ...]]:
        """Return a value that differs whenever a file is added, removed or written; a text if no key is allowed."""
        try:
            check_key_directory(self._directory)
            with os.scandir(self._directory) as entries:
                names = sorted(entry.name for entry in entries if entry.name.endswith(".key"))
        except UsageError as error:
            return str(error)
        except OSError as error:
            return f"{self._directory}: cannot be read: {error.strerror}"
        return [(name, *_stamp(self._directory / name)) for name in names]

    def _load(self, state: str | list[tuple[object, ...]]) -> dict[bytes, str]:
        if isinstance(state, str):
            log.error("publish.allow: %s; nobody may connect until then", state)
            return {}
        if len(state) > MAX_ALLOWED:
            log.error(
                "publish.allow: %s holds %d keys; only the first %d count", self._directory, len(state), MAX_ALLOWED
            )
        names: dict[bytes, str] = {}
        for name, *_ in state[:MAX_ALLOWED]:
            path = self._directory / str(name)
            try:
                certificate = load_certificate(path)
            except UsageError as error:
                log.error("publish.allow: %s", error)
                continue
            if certificate.secret is not None:
                log.error(
                    "publish.allow: %s holds a secret key, which only its user should have; make a new pair", path
                )
            names[certificate.public] = path.stem
        return names


def _stamp(path: Path) -> tuple[int, ...]:
    try:
        status = path.stat()
    except OSError:
        return ()  # a file that was just removed must not lock out all other keys
    return status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino


class CurveGate:
    """Answer libzmq's request about each client that has proven to own its key; runs in a thread.

    libzmq asks over the ZAP socket whether the key may connect.
    """

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], keys: Certificate, allow: AllowList) -> None:
        self._keys, self._allow = keys, allow
        self._socket = context.socket(zmq.REP)
        self._socket.linger = 0
        self._socket.bind(_ZAP_ENDPOINT)
        self.refused = 0
        self._reports: dict[bytes, float] = {}
        """When the newest refusals were logged, by key, the oldest first."""
        self._thread = SocketThread("gate", self._socket, self._answer_one)

    def protect(self, socket: zmq.Socket[bytes]) -> None:
        """Make a socket a CURVE server that asks this gate, before it is bound."""
        assert self._keys.secret is not None  # load_certificate has checked it
        socket.curve_server = True
        socket.curve_secretkey = self._keys.secret
        socket.zap_domain = _DOMAIN
        # Without this option libzmq accepts every client when its request is not answered.
        socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)

    def permits(self, user: str | None) -> bool:
        """Return whether the peer with the key `user` may stay connected."""
        return user is not None and self._allow.allows(user.encode())

    def close(self) -> None:
        """End the thread; from then on no new client can connect."""
        self._thread.close()

    def _answer_one(self) -> None:
        self._socket.send_multipart(self._answer(self._socket.recv_multipart()))

    def _answer(self, request: list[bytes]) -> list[bytes]:
        match request:
            case [b"1.0", sequence, domain, address, _, b"CURVE", key] if domain == _DOMAIN and len(key) == 32:
                public = z85.encode(key)
                if self._allow.name_of(public) is not None:
                    # The user id is the key: the name of its file may later belong to another key.
                    return [b"1.0", sequence, b"200", b"OK", public, b""]
                self._count_refused(address, public)
                return [b"1.0", sequence, b"400", b"not on the allow-list", b"", b""]
            case _:
                sequence = request[1] if len(request) > 1 else b""
                return [b"1.0", sequence, b"500", b"not a CURVE request for this domain", b"", b""]

    def _count_refused(self, address: bytes, public: bytes) -> None:
        """Count a refusal, and log it: each key once an hour, and at most ten keys a minute.

        A refused client may try again every second, and an attacker may send a new key each time.
        """
        self.refused += 1
        now_s = time.monotonic()
        if now_s - self._reports.get(public, -math.inf) < _REPORT_AGAIN_S:
            return
        if sum(now_s - reported_s < 60 for reported_s in self._reports.values()) >= _MAX_REPORTS_PER_MIN:
            return
        self._reports.pop(public, None)
        self._reports[public] = now_s
        if len(self._reports) > _MAX_REPORTED:
            del self._reports[next(iter(self._reports))]
        log.warning(
            "refused a client at %s (%d refusals so far): its public key %s is not in the directory publish.allow",
            address.decode("ascii", "replace"),
            self.refused,
            public.decode("ascii", "replace"),
        )
