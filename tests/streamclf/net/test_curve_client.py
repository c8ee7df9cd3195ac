"""Test how a subscriber's arguments become a service's address with keys."""

from __future__ import annotations

from pathlib import Path

import pytest

from streamclf.errors import UsageError
from streamclf.net.curve_client import ServiceAddress, resolve_service_address
from streamclf.net.curve_keys import load_certificate, make_keys


def test_key_file_made_for_a_service_is_a_complete_address(tmp_path: Path) -> None:
    server, _ = make_keys(tmp_path, "server")
    _, secret = make_keys(tmp_path, "viewer", service=server, endpoint="tcp://192.0.2.7:5555")
    assert resolve_service_address(secret) == ServiceAddress(
        endpoint="tcp://192.0.2.7:5555",
        keys=load_certificate(secret, secret=True),
        server_key=load_certificate(server).public,
    )


def test_missing_argument_is_named(tmp_path: Path) -> None:
    server, _ = make_keys(tmp_path, "server")
    _, bare = make_keys(tmp_path, "bare")
    _, nowhere = make_keys(tmp_path, "nowhere", service=server)
    for arguments, message in [
        ({"endpoint": tmp_path / "missing.key_secret"}, "a file made by"),
        ({"endpoint": nowhere}, "names no endpoint"),
        ({"endpoint": "tcp://127.0.0.1:9", "keys": bare}, "names no service"),
        ({"endpoint": "tcp://127.0.0.1:9", "server_key": server}, "only together with keys"),
    ]:
        with pytest.raises(UsageError, match=message):
            resolve_service_address(**arguments)  # type: ignore[arg-type]
