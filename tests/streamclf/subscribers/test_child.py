"""An outlet as a child of the supervisor: its phases."""

from __future__ import annotations

import pytest

from streamclf.config.outlet_options import OutletConfig
from streamclf.runtime.child import EXIT_DONE, ChildControl
from streamclf.runtime.jobs import OutletJob
from streamclf.runtime.liveness import Liveness, LivenessTable
from streamclf.subscribers import child
from streamclf.subscribers.outlet_run import OutletRun


def test_an_outlet_is_starting_until_its_loop_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    table = LivenessTable()
    row = table.claim()
    table.start(row, 120.0)
    control = ChildControl()
    control.liveness = Liveness(table.fd, row)
    phases = []

    def deliver(config: OutletConfig, run: OutletRun) -> None:
        phases.append(table.deadline(row).phase)  # here the outlet's libraries are imported
        for _ in range(2):
            assert not run.stop.is_set
            phases.append(table.deadline(row).phase)

    monkeypatch.setattr(child, "deliver", deliver)
    job = OutletJob(name="metrics", kind="metrics", options={}, events="tcp://127.0.0.1:1")
    try:
        assert child.main(job, control) == EXIT_DONE
    finally:
        table.close()
    assert phases == ["starting", "serving", "serving"]
