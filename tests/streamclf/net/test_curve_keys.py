"""Test key files: private, not overwritten, readable by pyzmq, and refused without showing the secret."""

from __future__ import annotations

import re
import stat
from pathlib import Path

import pytest
import zmq.auth

from streamclf.errors import UsageError
from streamclf.net.curve_keys import load_certificate, make_keys


def test_key_files_are_private_not_overwritten_and_readable_by_pyzmq(tmp_path: Path) -> None:
    public, secret = make_keys(tmp_path / "keys", "viewer")
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "keys").stat().st_mode) == 0o700
    before = secret.read_bytes()
    with pytest.raises(UsageError, match="--force"):
        make_keys(tmp_path / "keys", "viewer")
    assert secret.read_bytes() == before
    assert zmq.auth.load_certificate(secret) == (zmq.auth.load_certificate(public)[0], load_certificate(secret).secret)
    make_keys(tmp_path / "keys", "viewer", force=True)
    assert secret.read_bytes() != before
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    hidden = load_certificate(secret).secret
    assert hidden is not None
    assert hidden.decode() not in repr(load_certificate(secret))


@pytest.mark.parametrize("name", ["../../etc/passwd", "", "a b", "x" * 65, "a\nb"])
def test_name_of_keys_cannot_be_a_path(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="letters, digits"):
        make_keys(tmp_path, name)
    assert list(tmp_path.iterdir()) == []


def test_unusable_key_file_gives_one_line_without_the_secret(tmp_path: Path) -> None:
    public, secret = make_keys(tmp_path, "viewer")
    _, other = make_keys(tmp_path, "other")
    text = secret.read_text()
    hidden = load_certificate(secret).secret
    assert hidden is not None
    with pytest.raises(UsageError, match="public key only"):
        load_certificate(public, secret=True)
    with pytest.raises(UsageError, match="cannot be read"):
        load_certificate(tmp_path / "missing")
    secret.chmod(0o644)
    with pytest.raises(UsageError, match="chmod 600"):
        load_certificate(secret, secret=True)
    secret.chmod(0o600)
    wrong = re.sub(r'public-key = "[^"]*"', f'public-key = "{load_certificate(other).public.decode()}"', text)
    for content, message in [
        (wrong, "do not belong together"),
        (text.replace(hidden.decode(), hidden.decode()[:-1]), "no secret-key of 40"),
        (text.replace(hidden.decode(), "#" * 40), "no secret-key"),  # found by the fuzzer: more than 32 bits
        ("x" * 100_000, "more than"),
        ("", "no public-key"),
    ]:
        secret.write_text(content)
        with pytest.raises(UsageError, match=message) as caught:
            load_certificate(secret, secret=True)
        assert hidden.decode()[:-1] not in str(caught.value)
        assert "\n" not in str(caught.value)
