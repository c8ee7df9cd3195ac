"""File descriptors and shared memory of the machine are compared with the needs of the streams."""

from __future__ import annotations

import resource
from collections import Counter
from pathlib import Path

import pytest

from streamclf.errors import ConfigError
from streamclf.runtime.jobs import HubJob
from streamclf.supervisor import machine_limits
from streamclf.supervisor.child import Child
from streamclf.supervisor.engine_groups import Geometry
from streamclf.supervisor.machine_limits import check_memory, find_oversized, needed_descriptors, raise_descriptor_limit

GEOMETRY = Geometry(fps=10, frames_per_chunk=2, height=224, width=224, resize="stretch", slots=24)


def rings(streams: int) -> Counter[tuple[str, Geometry]]:
    return Counter({(f"cam{number}", GEOMETRY): 1 for number in range(streams)})


def test_descriptors_are_counted_for_the_process_that_needs_most() -> None:
    assert needed_descriptors(1, 1) == 260
    assert needed_descriptors(400, 400) == 192 + 6 * 400
    assert needed_descriptors(400, 400, gpu_rings=100) == 192 + 6 * 400 + 2 * 100
    assert needed_descriptors(10, 400) == 192 + 10 + 5 * 400


def test_a_soft_limit_is_raised_and_a_hard_limit_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    raised: list[tuple[int, int]] = []
    monkeypatch.setattr(machine_limits.resource, "getrlimit", lambda _: (64, 1000))
    monkeypatch.setattr(machine_limits.resource, "setrlimit", lambda _, to: raised.append(to))
    raise_descriptor_limit(10, 10)
    assert raised == [(needed_descriptors(10, 10), 1000)]

    def refuse(_: int, to: tuple[int, int]) -> None:
        raise ValueError("not allowed to raise maximum limit")

    monkeypatch.setattr(machine_limits.resource, "setrlimit", refuse)
    with pytest.raises(ConfigError, match=r"400 streams need 2592 file descriptors, and at most 1000 .* LimitNOFILE="):
        raise_descriptor_limit(400, 400)


def test_a_sufficient_limit_is_not_changed() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    raise_descriptor_limit(1, 1)
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == before


def test_memory_is_compared_with_the_need_of_all_rings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_limits, "available_bytes", lambda: 200 << 20)
    check_memory(rings(10))
    with pytest.raises(ConfigError, match=r"100 more streams need 689\.\d MiB of shared memory, and 136 MiB are free"):
        check_memory(rings(100))
    several = Counter({("a", GEOMETRY): 60, ("b", GEOMETRY): 40})
    with pytest.raises(ConfigError, match=r"100 more models and regions need 689\.\d MiB of shared memory"):
        check_memory(several)
    monkeypatch.setattr(machine_limits, "available_bytes", lambda: None)
    check_memory(rings(100))


@pytest.mark.parametrize(("used", "found"), [(300 * 10**6, False), (300 * 10**6 + 1, True), (None, False)])
def test_a_child_above_its_memory_limit_is_found(
    monkeypatch: pytest.MonkeyPatch, used: int | None, found: bool
) -> None:
    monkeypatch.setattr(machine_limits, "private_bytes", lambda _: used)
    monkeypatch.setattr(Child, "pid", 7)
    monkeypatch.setattr(Child, "running", True)
    child, free = (Child(name, "streamclf.hub", lambda _: None) for name in ("hub", "free"))
    job = HubJob(link="", events="", replay="", journal=Path("j"), keep_s=1, memory_limit=300 * 10**6)
    child.job, free.job = job, job.model_copy(update={"memory_limit": None})
    reasons = [(each.name, reason) for each, reason in find_oversized([child, free])]
    message = "took more than 300 MB of memory; if its work needs more, raise memory_limit"
    assert reasons == ([("hub", message)] if found else [])
