"""Requests to save examples are limited, and each gets a result or an error."""

from __future__ import annotations

import os

import pytest

from streamclf.errors import EventError
from streamclf.events.example_request import ExampleRequest, ExampleResult
from streamclf.hub import example_requests as module
from streamclf.hub.example_requests import ExampleRequests

REQUEST = ExampleRequest(stream="door", begin=1000.0, end=1002.0, project="yard", label="open")


def test_a_service_without_the_section_refuses() -> None:
    with pytest.raises(EventError, match="add the section examples"):
        ExampleRequests().submit(REQUEST)


def test_a_request_is_sent_once_and_answered_once() -> None:
    requests = ExampleRequests(enabled=True)
    ticket = requests.submit(REQUEST)
    assert os.read(requests.wake_fd, 0) == b""
    (sent,) = requests.pop_unsent()
    assert sent[:2] == (ticket, "door")
    assert requests.pop_unsent() == []
    assert requests.result(ticket) is None
    requests.complete_with(ticket, ExampleResult(file="yard/open/a.mp4").model_dump_json().encode())
    requests.complete(ticket, ExampleResult(error="too late"))
    assert requests.result(ticket) == ExampleResult(file="yard/open/a.mp4")
    requests.close()


def test_an_unknown_ticket_and_a_wrong_result_are_errors() -> None:
    requests = ExampleRequests(enabled=True)
    with pytest.raises(EventError, match="no such request"):
        requests.result("x")
    with pytest.raises(EventError):
        requests.complete_with("x", b"[]")


def test_requests_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    requests = ExampleRequests(enabled=True)
    for _ in range(module.MAX_PENDING):
        requests.submit(REQUEST)
    with pytest.raises(EventError, match="wait to be saved already"):
        requests.submit(REQUEST)
    for ticket, _, _ in requests.pop_unsent():
        requests.complete(ticket, ExampleResult(error="no"))
    monkeypatch.setattr(module, "MAX_PER_MINUTE", module.MAX_PENDING)
    with pytest.raises(EventError, match="within a minute"):
        requests.submit(REQUEST)


def test_a_process_that_does_not_answer_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    requests = ExampleRequests(enabled=True)
    ticket = requests.submit(REQUEST)
    monkeypatch.setattr(module, "ANSWER_S", -1.0)
    result = requests.result(ticket)
    assert result is not None
    assert "has not answered" in str(result.error)
    monkeypatch.setattr(module, "RESULT_S", -1.0)
    with pytest.raises(EventError, match="has expired"):
        requests.result(ticket)
