"""`fleet up` shows how many streams are live while it waits."""

from __future__ import annotations

from typing import Any

import pytest

from streamclf.fleet import command


def test_each_change_of_the_number_of_live_streams_is_printed_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    live = iter([0, 0, 1, 2])

    def call(ray: object, method: str) -> dict[str, Any]:
        return {"live": next(live), "streams": 3, "unplaced": ["x"], "moving": {}}

    monkeypatch.setattr(command, "_call", call)
    monkeypatch.setattr(command, "format_status", lambda status: [f"live: {status['live']}"])
    monkeypatch.setattr(command.time, "sleep", lambda seconds: None)
    assert command.wait_until_live(object(), 60.0) == 0
    printed = capsys.readouterr()
    assert printed.err.splitlines() == [f"{count} of 2 streams are live" for count in (0, 1, 2)]
    assert printed.out == "live: 2\n"
