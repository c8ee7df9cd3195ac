"""Give each end-to-end test a second attempt: it runs real processes with real deadlines on a machine that is shared.

A machine that stops for a second makes a camera stalled or a child late, as it would in operation. A test that must
never fail, not even once in a hundred runs, has `flaky(reruns=0)` of its own and gets no second attempt.
"""

from __future__ import annotations

from pathlib import Path

import pytest

FOLDER = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(FOLDER) and item.get_closest_marker("flaky") is None:
            item.add_marker(pytest.mark.flaky(reruns=1))
