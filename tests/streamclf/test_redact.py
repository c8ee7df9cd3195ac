"""Test redaction with every form of a password that was found in a log."""

from __future__ import annotations

import io
import logging
from urllib.parse import quote

import pytest

from streamclf.redact import RedactingFormatter, redact, register_secret, register_url

PASSWORD = "p@ss:/%?#w ö"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("open rtsp://admin:geheim1@10.0.0.5/stream1 failed", "open rtsp://***@10.0.0.5/stream1 failed"),
        ("rtsp://admin:p%40%3A@cam:554/x?a=1", "rtsp://***@cam:554/x?a=1"),
        ("rtsp://admin:raw/slash?and@sign@cam/x", "rtsp://***@cam/x"),
        ("RTSPS://Admin:X@cam", "RTSPS://***@cam"),
        ("http://cam/video?user=a&pwd=geheim2&x=1", "http://cam/video?user=a&pwd=***&x=1"),
        ("https://h/v?access_token=abc#f", "https://h/v?access_token=***#f"),
        ("Authorization: Basic YWRtaW46eA==", "Authorization: ***"),
        ('Authorization: Digest username="a", response="b"\nnext', "Authorization: ***\nnext"),
        ("nothing@secret here, tcp://127.0.0.1:5555", "nothing@secret here, tcp://127.0.0.1:5555"),
    ],
)
def test_credentials_in_text_are_masked(text: str, expected: str) -> None:
    assert redact(text) == expected


def test_registered_secret_is_masked_in_every_form() -> None:
    register_secret(PASSWORD)
    for form in (PASSWORD, quote(PASSWORD, safe=""), quote(PASSWORD), repr(PASSWORD)):
        assert PASSWORD not in redact(f"value {form}.")
        assert "ss" not in redact(f"value {form}.").removeprefix("value")


def test_password_of_a_registered_url_is_masked_without_the_url() -> None:
    register_url("rtsp://ad%40min:tief%40geheim@cam/x")
    assert redact("login tief@geheim refused, tief%40geheim too") == "login *** refused, *** too"


def test_log_lines_and_tracebacks_hold_no_credentials() -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(RedactingFormatter("%(message)s"))
    logger = logging.Logger("test")
    logger.addHandler(handler)
    url = "rtsp://admin:geheim3@cam/x"
    try:
        raise OSError(5, "Input/output error", url)
    except OSError:
        logger.exception("cannot open %s", url)
    text = stream.getvalue()
    assert "geheim3" not in text
    assert "rtsp://***@cam/x" in text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("the file cannot be read", "the file cannot be read"),
        ("user ann: no", "user ***: no"),
        ("rtsp://root:ann@10.0.0.5/", "rtsp://***@10.0.0.5/"),
        ("'ann'", "'***'"),
        ("root_ann", "root_***"),
    ],
)
def test_a_short_secret_is_masked_only_where_it_stands_alone(text: str, expected: str) -> None:
    register_secret("ann")
    assert redact(text) == expected
