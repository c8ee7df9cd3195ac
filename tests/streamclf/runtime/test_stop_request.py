"""A stop request ends every wait of a command, at once and from a signal handler."""

from __future__ import annotations

import time

import pytest

from streamclf.runtime.stop_request import StopRequest


def test_a_new_request_without_time_limit_is_not_set() -> None:
    assert not StopRequest().is_set


def test_a_request_is_set_after_its_time_limit() -> None:
    assert StopRequest(0.0).is_set
    assert not StopRequest(3600.0).is_set


def test_a_request_ends_a_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    stop = StopRequest()
    sleeps: list[float] = []
    monkeypatch.setattr(time, "sleep", lambda seconds: (sleeps.append(seconds), stop.request()))
    assert stop.wait(3600)
    assert len(sleeps) == 1


def test_a_wait_that_is_not_interrupted_returns_false() -> None:
    assert not StopRequest().wait(0.0)
