"""TLS contexts for RTSPS."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from streamclf.errors import SourceError
from streamclf.sources.rtsp.connection import tls_context


def test_an_unreadable_certificate_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "none.pem").write_text("nothing")
    for name, why in (("absent.pem", "No such file"), ("none.pem", "no certificate in it")):
        with pytest.raises(SourceError, match=rf"tls_ca .*{name}: cannot be read \({why}"):
            tls_context(str(tmp_path / name), verify=True, shown="cam")
    assert tls_context(None, verify=True, shown="cam").verify_mode is ssl.CERT_REQUIRED
    assert tls_context(None, verify=True, shown="cam").check_hostname
    assert tls_context(None, verify=False, shown="cam").verify_mode is ssl.CERT_NONE
