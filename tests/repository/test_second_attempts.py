"""A test whose deadlines are real gets a second attempt, unless it or `--reruns 0` forbids it."""

from __future__ import annotations

import pytest
from support.hub_process import HubProcess  # it starts processes, so the tests of this file get a second attempt


def reruns_of(request: pytest.FixtureRequest) -> int:
    mark = request.node.get_closest_marker("flaky")
    reruns = 0 if mark is None else mark.kwargs["reruns"]
    assert isinstance(reruns, int)
    return reruns


def test_a_test_with_real_deadlines_has_a_second_attempt(request: pytest.FixtureRequest) -> None:
    assert HubProcess.__module__ == "support.hub_process"
    assert reruns_of(request) == (0 if request.config.getoption("reruns") == 0 else 1)


@pytest.mark.flaky(reruns=0)
def test_a_test_may_forbid_a_second_attempt(request: pytest.FixtureRequest) -> None:
    assert reruns_of(request) == 0
