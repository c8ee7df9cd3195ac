"""How a program's pictures come to a capture process: where it listens, who may send, how a picture is framed.

The capture process listens on a Unix socket in a directory that only its user may enter, or on a loopback port where a
shared secret is required. Both sides prove that they know it; it never crosses the connection.

    server -> program   MAGIC, challenge (32)
    program -> server   nonce (32), HMAC-SHA256(secret, "program" challenge nonce)
    server -> program   verdict (1), HMAC-SHA256(secret, "server" challenge nonce)
    program -> server   (header, RGB bytes) ...
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import socket
import stat
import struct
import tempfile
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from streamclf.errors import SourceError

MAGIC = b"SCLFPSH1"
NONCE_BYTES = PROOF_BYTES = 32
GREETING_BYTES = len(MAGIC) + NONCE_BYTES
ANSWER_BYTES = NONCE_BYTES + PROOF_BYTES
VERDICT_BYTES = 1 + PROOF_BYTES
ACCEPTED, REFUSED = b"\1", b"\0"

HEADER = struct.Struct("<4sIIqQ")
"""magic, width, height, pts_ns, pictures that the program has dropped so far"""
HEADER_MAGIC = b"RGB8"
MAX_SIDE = 16_384
MAX_PICTURE_BYTES = 256 << 20
MIN_SECRET_CHARS = 12
MAX_UNIX_PATH_BYTES = 100
"""The system's limit is 104 to 108."""

NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
TCP = re.compile(r"tcp://(\[[0-9a-fA-F:]+\]|[^\s/:]+):(\d{1,5})")


@dataclass(frozen=True, slots=True)
class PushAddress:
    """Where pictures are pushed to: a Unix socket's `path`, or a loopback `host` and `port`."""

    path: Path | None = None
    host: str = ""
    port: int = 0

    def socket(self) -> socket.socket:
        """A socket of the right kind, not connected."""
        if self.path is not None:
            return socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        return socket.socket(socket.AF_INET6 if ":" in self.host else socket.AF_INET, socket.SOCK_STREAM)

    @property
    def target(self) -> str | tuple[str, int]:
        """As `bind` and `connect` want it."""
        return str(self.path) if self.path is not None else (self.host, self.port)

    def __str__(self) -> str:
        return str(self.path) if self.path is not None else f"tcp://{self.host}:{self.port}"


def address_of(where: str) -> PushAddress:
    """The address for a name, a socket's path (with a slash in it) or `tcp://127.0.0.1:PORT`. Raises `SourceError`."""
    if match := TCP.fullmatch(where):
        host, port = match[1].strip("[]"), int(match[2])
        if not _is_loopback(host) or not 1 <= port <= 65535:
            raise SourceError(f"push {where}: a loopback address like tcp://127.0.0.1:9000, or a name")
        return PushAddress(host="127.0.0.1" if host == "localhost" else host, port=port)
    if "/" in where and "://" not in where:
        path = Path(where)
    elif NAME.fullmatch(where):
        path = socket_dir() / f"{where}.sock"
    else:
        raise SourceError(
            f"push {where!r}: a name of letters, digits, _ and -, a socket's path, or tcp://127.0.0.1:PORT"
        )
    if len(os.fsencode(path)) > MAX_UNIX_PATH_BYTES:
        raise SourceError(f"push {path}: longer than {MAX_UNIX_PATH_BYTES} bytes, which no socket can be; shorten it")
    return PushAddress(path=path)


def socket_dir() -> Path:
    """Where sockets of a bare name are: the same for every program of this user."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime and Path(runtime).is_dir():
        return Path(runtime) / "streamclf"
    return Path(tempfile.gettempdir()) / f"streamclf.{os.getuid()}"


def make_private(folder: Path) -> None:
    """Make `folder`, which only this user may enter. Raises `SourceError` where it is somebody else's or open."""
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
    except OSError as error:
        raise SourceError(f"{folder}: cannot be made ({error.strerror}); give push a path in another folder") from None
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise SourceError(f"{folder}: other users may enter it, or own it; chmod 700 it, or give push another path")


def proof(secret: str, side: bytes, challenge: bytes, nonce: bytes) -> bytes:
    """What only one who knows `secret` can answer."""
    return hmac.new(secret.encode(), side + challenge + nonce, hashlib.sha256).digest()


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
