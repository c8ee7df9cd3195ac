"""Make and read files with CURVE keys, and keep the secret ones from other users of the machine.

The format is the certificate of czmq and pyzmq (a public `NAME.key`, a secret `NAME.key_secret`), so programs in other
languages can read the files. A client's secret file may also hold the service's public key and its endpoint. A
subscriber then needs this file only, and gives it wherever an endpoint is expected.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import zmq
from zmq.utils import z85

from streamclf.errors import UsageError
from streamclf.net.endpoints import check_service_endpoint
from streamclf.net.names import STREAM_NAME_RULE, valid_stream_name
from streamclf.net.trusted_files import check_secrecy, read_key_file

MAX_KEY_FILE_BYTES: Final = 16 * 1024
_Z85: Final = re.compile(rb"[0-9a-zA-Z.:+=^!/*?&<>()\[\]{}@%$#-]{40}")
_LINE: Final = re.compile(r'^\s*([a-z-]+)\s*=\s*"([^"]*)"\s*$')
_REMEDY: Final = "give a file made by `streamclf keys`"


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """One party's keys, Z85 (40 bytes each).

    A client's keys that were made for one service also have its public key, `server`, and perhaps its `endpoint`.
    """

    path: Path
    public: bytes
    secret: bytes | None = field(default=None, repr=False)
    server: bytes | None = None
    endpoint: str | None = None


def make_keys(
    directory: Path, name: str, *, service: Path | None = None, endpoint: str | None = None, force: bool = False
) -> tuple[Path, Path]:
    """Write `NAME.key` and `NAME.key_secret` (mode 0600) into `directory`; return both paths. Raises `UsageError`.

    A client's secret file also gets the key in `service` (the service's public file) and `endpoint`. An existing file
    is replaced only with `force`.
    """
    if not valid_stream_name(name):
        raise UsageError(f"name {name!r}: must be {STREAM_NAME_RULE}")
    if endpoint is not None:
        check_service_endpoint(endpoint)
    if endpoint is not None and service is None:
        raise UsageError(
            "endpoint: only together with the service's public key, which proves that the right service answers"
        )
    service_values = {} if service is None else {"server-key": load_certificate(service).public.decode()}
    if endpoint is not None:
        service_values["endpoint"] = endpoint
    public, secret = zmq.curve_keypair()
    public_path, secret_path = directory / f"{name}.key", directory / f"{name}.key_secret"
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path in (public_path, secret_path):
            if force:
                path.unlink(missing_ok=True)
            elif path.exists():
                raise UsageError(
                    f"{path}: exists; replacing it would lock out its users: "
                    "give another name, or --force to replace it"
                )
        keys = {"public-key": public.decode()}
        own = {**keys, "secret-key": secret.decode(), **service_values}
        _write(secret_path, "secret: keep it on the machine that uses it, and only there", own)
        _write(public_path, "public: give it to the other side", keys)
    except OSError as error:
        raise UsageError(f"{directory}: {error.strerror}; give a directory that can be written") from error
    return public_path, secret_path


def explain_keys(public: Path, secret: Path, *, service: Path | None, endpoint: str | None) -> str:
    """Explain what to do with the two files that `make_keys` wrote, for a service or (with `service`) for a client."""
    if service is None:
        return (
            f"{secret}: secret, stays here; in the configuration: publish: {{keys: {secret}, allow: DIRECTORY}}\n"
            f"{public}: for making a subscriber's keys: streamclf keys DIR NAME --service {public} --endpoint tcp://HOST:PORT"
        )
    where = secret.name if endpoint else f"{secret.name} (holds no endpoint: only Python's keys= accepts it)"
    return (
        f"{public}: copy it into the service's publish.allow directory\n"
        f"{secret}: secret; bring it to the subscriber, who gives it in place of the endpoint: streamclf watch {where}"
    )


def load_certificate(path: Path, *, secret: bool = False) -> Certificate:
    """Read a key file, which only this user or root may change. Raises `UsageError`.

    With `secret` it must hold a secret key that other users cannot read.
    """
    data, mode = read_key_file(path, max_bytes=MAX_KEY_FILE_BYTES, remedy=_REMEDY)
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
        _check_secret_file(certificate, mode)
    return certificate


def _check_secret_file(certificate: Certificate, mode: int) -> None:
    path = certificate.path
    if certificate.secret is None:
        raise UsageError(f"{path}: holds a public key only; give the file of the same name that ends in .key_secret")
    check_secrecy(path, mode)
    if zmq.curve_public(certificate.secret) != certificate.public:
        raise UsageError(f"{path}: its secret and public key do not belong together; {_REMEDY}")


def _key(path: Path, values: Mapping[str, str], name: str) -> bytes:
    key = values.get(name, "").encode()
    if not _Z85.fullmatch(key) or not _is_z85(key):
        raise UsageError(f"{path}: no {name} of 40 characters; {_REMEDY}")  # never show the value: it may be a secret
    return key


def _is_z85(key: bytes) -> bool:
    """Return whether `key` decodes: five characters encode four bytes, but can exceed 32 bits (ZeroMQ RFC 32)."""
    try:
        return len(z85.decode(key)) == 32
    except (struct.error, ValueError):
        return False


def _write(path: Path, title: str, values: Mapping[str, str]) -> None:
    """Write the lines that pyzmq and czmq read; both skip lines that they do not know."""
    lines = [f"#   ZeroMQ CURVE certificate, {title}", "", "metadata", "curve"]
    lines += [f'    {key} = "{value}"' for key, value in values.items()]
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600 if "secret-key" in values else 0o644)
    with os.fdopen(fd, "w", encoding="ascii") as file:
        file.write("\n".join(lines) + "\n")
