"""Define the protocol between `streamclf.push` and a capture process: addresses, handshake, frame header.

The capture process listens on a Unix socket in a directory that only its user may enter, or on a loopback port where a
shared secret is required. Both sides prove that they know the secret; it never crosses the connection.

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
from pathlib import Path

from streamclf.errors import SourceError
from streamclf.net.endpoints import is_loopback_host
from streamclf.net.names import valid_stream_name

MAGIC = b"SCLFPSH1"
NONCE_BYTES = PROOF_BYTES = 32
GREETING_BYTES = len(MAGIC) + NONCE_BYTES
ANSWER_BYTES = NONCE_BYTES + PROOF_BYTES
VERDICT_BYTES = 1 + PROOF_BYTES
ACCEPTED, REFUSED = b"\1", b"\0"

HEADER = struct.Struct("<4sIIqQ")
"""Magic, width, height, pts_ns, and the number of frames that the program has dropped so far."""
HEADER_MAGIC = b"RGB8"
MAX_SIDE = 16_384
MAX_FRAME_BYTES = 256 << 20
MIN_SECRET_CHARS = 12
MAX_UNIX_PATH_BYTES = 100
"""Below the operating systems' limits of 104 to 108."""

_TCP = re.compile(r"tcp://(\[[0-9a-fA-F:]+\]|[^\s/:]+):(\d{1,5})")


@dataclass(frozen=True, slots=True)
class PushAddress:
    """The address that frames are pushed to: a Unix socket's `path`, or a loopback `host` and `port`."""

    path: Path | None = None
    host: str = ""
    port: int = 0

    def socket(self) -> socket.socket:
        """Make a socket of the right family, not connected."""
        if self.path is not None:
            return socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        return socket.socket(socket.AF_INET6 if ":" in self.host else socket.AF_INET, socket.SOCK_STREAM)

    @property
    def target(self) -> str | tuple[str, int]:
        """The address in the form that `bind` and `connect` accept."""
        return str(self.path) if self.path is not None else (self.host, self.port)

    def __str__(self) -> str:
        return str(self.path) if self.path is not None else f"tcp://{self.host}:{self.port}"


def parse_push_address(where: str) -> PushAddress:
    """Parse a name, a socket's path (with a slash in it) or `tcp://127.0.0.1:PORT`. Raises `SourceError`."""
    if match := _TCP.fullmatch(where):
        host, port = match[1].strip("[]"), int(match[2])
        if not is_loopback_host(host) or not 1 <= port <= 65535:
            raise SourceError(f"push {where}: must be a loopback address like tcp://127.0.0.1:9000, or a name")
        return PushAddress(host="127.0.0.1" if host == "localhost" else host, port=port)
    if "/" in where and "://" not in where:
        path = Path(where)
    elif valid_stream_name(where):
        path = socket_dir() / f"{where}.sock"
    else:
        raise SourceError(
            f"push {where!r}: must be a name of letters, digits, _ and -, a socket's path, or tcp://127.0.0.1:PORT"
        )
    if len(os.fsencode(path)) > MAX_UNIX_PATH_BYTES:
        raise SourceError(
            f"push {path}: longer than {MAX_UNIX_PATH_BYTES} bytes, the limit for a socket's path; shorten it"
        )
    return PushAddress(path=path)


def socket_dir() -> Path:
    """Return the folder of the sockets with a bare name; it is the same for every program of this user."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime and Path(runtime).is_dir():
        return Path(runtime) / "streamclf"
    return Path(tempfile.gettempdir()) / f"streamclf.{os.getuid()}"


def make_private_folder(folder: Path) -> None:
    """Make `folder`, which only this user may enter. Raises `SourceError` if others own it or may enter it."""
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
    except OSError as error:
        raise SourceError(f"{folder}: cannot be made ({error.strerror}); give push a path in another folder") from None
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise SourceError(f"{folder}: another user owns it or may enter it; chmod 700 it, or give push another path")


def make_proof(secret: str, side: bytes, challenge: bytes, nonce: bytes) -> bytes:
    """Compute the HMAC-SHA256 that proves knowledge of `secret`; `side` is b"program" or b"server"."""
    return hmac.new(secret.encode(), side + challenge + nonce, hashlib.sha256).digest()
