"""CURVE keys in files: made, read, and kept from other users of the machine.

The format is the certificate of czmq and pyzmq (a public `NAME.key`, a secret `NAME.key_secret`), so programs in other
languages can read them. A client's secret file may also hold the service's public key and its endpoint: then it is all
that a subscriber needs, and stands wherever an endpoint does.
"""

from __future__ import annotations

import os
import re
import stat
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import zmq
from zmq.utils import z85

from streamclf.errors import UsageError
from streamclf.net.endpoints import ENDPOINT
from streamclf.net.names import valid_stream_name

MAX_KEY_FILE_BYTES: Final = 16 * 1024
_Z85: Final = re.compile(rb"[0-9a-zA-Z.:+=^!/*?&<>()\[\]{}@%$#-]{40}")
_LINE: Final = re.compile(r'^\s*([a-z-]+)\s*=\s*"([^"]*)"\s*$')
_NOT_KEYS: Final = "give a file made by `streamclf keys`"


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """One party's keys, Z85 (40 bytes each); `server` and `endpoint` where it was made for one service."""

    path: Path
    public: bytes
    secret: bytes | None = field(default=None, repr=False)
    server: bytes | None = None
    endpoint: str | None = None


def make_keys(
    directory: Path, name: str, *, service: Path | None = None, endpoint: str | None = None, force: bool = False
) -> tuple[Path, Path]:
    """Write `NAME.key` and `NAME.key_secret` (mode 0600) into `directory`; return both paths.

    `service` (its public file) and `endpoint` are put into a client's secret file. Raises `UsageError`; a file that
    exists is replaced only with `force`.
    """
    if not valid_stream_name(name):
        raise UsageError(f"name {name!r}: 1 to 64 of letters, digits, _ and -")
    if endpoint is not None and not ENDPOINT.match(endpoint):
        raise UsageError(f"endpoint {endpoint!r}: like tcp://192.0.2.7:5555")
    if endpoint is not None and service is None:
        raise UsageError("endpoint: only together with the service's public key, which proves who answers there")
    more = {} if service is None else {"server-key": load_certificate(service).public.decode()}
    if endpoint is not None:
        more["endpoint"] = endpoint
    public, secret = zmq.curve_keypair()
    public_path, secret_path = directory / f"{name}.key", directory / f"{name}.key_secret"
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path in (public_path, secret_path):
            if force:
                path.unlink(missing_ok=True)
            elif path.exists():
                raise UsageError(
                    f"{path}: exists; whoever uses it would be locked out by a new one: "
                    "give another name, or --force to replace it"
                )
        keys = {"public-key": public.decode()}
        own = {**keys, "secret-key": secret.decode(), **more}
        _write(secret_path, "secret: keep it where it is used, and only there", own)
        _write(public_path, "public: give it to whom it concerns", keys)
    except OSError as error:
        raise UsageError(f"{directory}: {error.strerror}; give a directory that can be written") from error
    return public_path, secret_path


def explain_keys(public: Path, secret: Path, *, service: Path | None, endpoint: str | None) -> str:
    """What to do with the two files, for whoever has just made them."""
    if service is None:
        return (
            f"{secret}: stays here, secret; in the configuration: publish: {{keys: {secret}, allow: DIRECTORY}}\n"
            f"{public}: for those who subscribe: streamclf keys DIR NAME --service {public} --endpoint tcp://HOST:PORT"
        )
    where = secret.name if endpoint else f"{secret.name} (which names no endpoint: that takes Python's keys=)"
    return (
        f"{public}: copy it into the service's publish.allow directory\n"
        f"{secret}: secret; bring it to where it is used, and give it in place of the endpoint: streamclf watch {where}"
    )


def load_certificate(path: Path, *, secret: bool = False) -> Certificate:
    """Read one file. With `secret` it must hold a secret key, and nobody else may read it. Raises `UsageError`."""
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            data = file.read(MAX_KEY_FILE_BYTES + 1)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror}); {_NOT_KEYS}") from error
    if len(data) > MAX_KEY_FILE_BYTES:
        raise UsageError(f"{path}: more than {MAX_KEY_FILE_BYTES} bytes; {_NOT_KEYS}")
    matches = (_LINE.match(line) for line in data.decode("utf-8", "replace").splitlines())
    values = {match[1]: match[2] for match in matches if match}
    certificate = Certificate(
        path=path,
        public=_key(path, values, "public-key"),
        secret=_key(path, values, "secret-key") if "secret-key" in values else None,
        server=_key(path, values, "server-key") if "server-key" in values else None,
        endpoint=values.get("endpoint"),
    )
    if secret:
        _check_secret(certificate, mode)
    return certificate


def _check_secret(certificate: Certificate, mode: int) -> None:
    path = certificate.path
    if certificate.secret is None:
        raise UsageError(f"{path}: holds a public key only; give the file of the same name that ends in .key_secret")
    if stat.S_IMODE(mode) & 0o077:
        raise UsageError(f"{path}: mode {stat.S_IMODE(mode):04o} lets others read the secret; chmod 600 {path}")
    if zmq.curve_public(certificate.secret) != certificate.public:
        raise UsageError(f"{path}: its secret and public key do not belong together; {_NOT_KEYS}")


def _key(path: Path, values: Mapping[str, str], name: str) -> bytes:
    key = values.get(name, "").encode()
    if not _Z85.fullmatch(key) or not _is_z85(key):
        raise UsageError(f"{path}: no {name} of 40 characters; {_NOT_KEYS}")  # never the value: it may be a secret
    return key


def _is_z85(key: bytes) -> bool:
    """Five characters hold four bytes, and could hold more than fit (ZeroMQ RFC 32)."""
    try:
        return len(z85.decode(key)) == 32
    except (struct.error, ValueError):
        return False


def _write(path: Path, title: str, values: Mapping[str, str]) -> None:
    """The lines that pyzmq's and czmq's readers look for; both skip what they do not know."""
    lines = [f"#   ZeroMQ CURVE certificate, {title}", "", "metadata", "curve"]
    lines += [f'    {key} = "{value}"' for key, value in values.items()]
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600 if "secret-key" in values else 0o644)
    with os.fdopen(fd, "w", encoding="ascii") as file:
        file.write("\n".join(lines) + "\n")
