"""A reload starts parked processes again, and leaves alone those that are stopping for an earlier change."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from streamclf.supervisor.child import Child
from streamclf.supervisor.reconfiguration import Reconfiguration


def test_a_reload_starts_parked_processes_but_none_that_is_stopping() -> None:
    """An old exit of a process that was started again is ignored: a removed stream would be captured for ever."""
    children = {name: Child(name, "module", lambda _: None) for name in ("parked", "stopping", "fresh")}
    for name in ("parked", "stopping"):
        children[name].times_parked = 1
    children["stopping"].request_stop()  # it has ended, and its exit is not handled yet
    started: list[str] = []
    processes = SimpleNamespace(
        streams=SimpleNamespace(all=[SimpleNamespace(child=child, code=None) for child in children.values()]),
        classifiers=SimpleNamespace(
            all=[SimpleNamespace(child=child, is_parked=child.times_parked > 0) for child in children.values()]
        ),
        outlets=SimpleNamespace(restart_parked=lambda: None),
        start=lambda child: started.append(child.name),
    )
    reader = SimpleNamespace(start=lambda: True)
    changes = Reconfiguration(
        cast(Any, None), cast(Any, processes), cast(Any, reader), kill_later=lambda _: None, report=lambda *_: None
    )
    assert changes.start_reading()
    assert started == ["parked", "parked"]
