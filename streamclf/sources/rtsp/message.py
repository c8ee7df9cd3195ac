"""Parse and write RTSP messages (RFC 2326): requests and responses."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

MAX_HEAD_BYTES = 16 << 10
MAX_HEADERS = 64
MAX_BODY_BYTES = 64 << 10
_STATUS = re.compile(r"RTSP/\d\.\d +([1-9]\d\d)(?: |$)")
_REQUEST = re.compile(r"([A-Z_]{3,20}) (\S{1,2048}) RTSP/\d\.\d$")


class MalformedMessageError(ValueError):
    """The bytes begin like a message but are not one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RtspMessage:
    """A response if `status` is set, else a request by the server. Header names are in lower case."""

    status: int = 0
    method: str = ""
    headers: dict[str, list[str]] = field(default_factory=dict)
    body: bytes = b""

    def header(self, name: str) -> str:
        """Return the first header of that name; empty if there is none."""
        return self.headers.get(name, [""])[0]

    @property
    def sequence(self) -> int | None:
        """Its `CSeq`; None if it is missing or invalid."""
        text = self.header("cseq")
        return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else None


def parse_head(head: bytes) -> tuple[RtspMessage, int]:
    """Parse the first line and headers, `head`. Returns the message and the length of the body that follows."""
    first, *lines = head.decode("utf-8", "replace").split("\r\n")
    status, request = _STATUS.match(first), _REQUEST.match(first)
    if status is None and request is None:
        raise MalformedMessageError("neither a request nor a response")
    if len(lines) > MAX_HEADERS:
        raise MalformedMessageError(f"{len(lines)} headers; at most {MAX_HEADERS}")
    headers: dict[str, list[str]] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if colon:
            headers.setdefault(name.strip().lower(), []).append(value.strip())
    length = headers.get("content-length", ["0"])[0]
    if not (length.isascii() and length.isdigit()) or len(length) > 8 or int(length) > MAX_BODY_BYTES:
        raise MalformedMessageError(f"a body of more than {MAX_BODY_BYTES} bytes")
    message = RtspMessage(status=int(status[1]) if status else 0, method=request[1] if request else "", headers=headers)
    return message, int(length)


def request_bytes(method: str, url: str, headers: Mapping[str, str]) -> bytes:
    """Write a request of ours. Line breaks in its parts raise an error; their origins have checked that before."""
    lines = [f"{method} {url} RTSP/1.0", *(f"{name}: {value}" for name, value in headers.items())]
    if any(char in line for line in lines for char in "\r\n\0"):
        raise MalformedMessageError("a header line with a line break")
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def response_bytes(status: int, sequence: int | None) -> bytes:
    """Write our response to a server's request."""
    text = {200: "OK"}.get(status, "Not Implemented")
    cseq = "" if sequence is None else f"CSeq: {sequence}\r\n"
    return f"RTSP/1.0 {status} {text}\r\n{cseq}\r\n".encode()
