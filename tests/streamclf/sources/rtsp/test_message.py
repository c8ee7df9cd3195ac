"""RTSP requests: no part of one can end its line."""

from __future__ import annotations

import pytest

from streamclf.sources.rtsp.message import MalformedMessageError, request_bytes


def test_a_request_with_a_line_break_is_refused() -> None:
    assert request_bytes("PLAY", "rtsp://c/", {"CSeq": "1"}) == b"PLAY rtsp://c/ RTSP/1.0\r\nCSeq: 1\r\n\r\n"
    for url, value in (("a\nb", "c"), ("a", "b\r\nEvil: 1")):
        with pytest.raises(MalformedMessageError):
            request_bytes("PLAY", url, {"Session": value})
