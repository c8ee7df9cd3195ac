"""Films are sent in ranges, and a client that stops reading holds nothing for long."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from streamclf.subscribers.web import file_response
from streamclf.subscribers.web.file_response import FileResponse, parse_range


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("bytes=0-0", (0, 0)),
        ("bytes=5-", (5, 99)),
        ("bytes=-10", (90, 99)),
        ("bytes=-1000", (0, 99)),
        ("bytes=90-1000", (90, 99)),
        ("bytes=100-", "unsatisfiable"),
        ("bytes=-0", "unsatisfiable"),
        ("bytes=9-5", None),
        ("bytes=-", None),
        ("bytes=0-1,5-6", None),
        ("bytes=1.5-2", None),
        ("bytes=٣-٤", None),
        ("bytes=" + "9" * 30 + "-", None),
        ("", None),
    ],
)
def test_ranges(text: str, expected: object) -> None:
    assert parse_range(text, 100) == expected


def test_an_empty_file_has_no_ranges() -> None:
    assert parse_range("bytes=0-", 0) == "unsatisfiable"
    assert parse_range("bytes=-5", 0) == "unsatisfiable"


def serve(path: Path, send: Any, **headers: str) -> FileResponse:
    response = FileResponse(path.open("rb"), "video/mp4")
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]

    async def receive() -> dict[str, str]:
        return {"type": "http.disconnect"}

    asyncio.run(response({"type": "http", "method": "GET", "headers": raw}, receive, send))
    return response


@pytest.mark.parametrize("size", [0, 1, 1000])
def test_the_whole_file_is_sent_and_the_answer_is_complete(tmp_path: Path, size: int) -> None:
    path = tmp_path / "film.mp4"
    path.write_bytes(bytes(range(256)) * 4)
    with path.open("r+b") as file:
        file.truncate(size)
    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    response = serve(path, send)
    assert dict(sent[0]["headers"])[b"content-length"] == str(size).encode()
    assert b"".join(message.get("body", b"") for message in sent[1:]) == path.read_bytes()
    assert [message.get("more_body", False) for message in sent[1:]][-1] is False
    assert response._file.closed


def test_a_client_that_never_reads_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_response, "SEND_S", 0.05)
    path = tmp_path / "film.mp4"
    path.write_bytes(b"x" * 1000)

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.body":
            await asyncio.Event().wait()

    assert serve(path, send)._file.closed
