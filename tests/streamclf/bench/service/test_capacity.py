"""The search for the largest number of sustained streams."""

from __future__ import annotations

import math

import pytest

from streamclf.bench.service.capacity import find_capacity


@pytest.mark.parametrize("capacity", [0, 1, 2, 3, 7, 8, 9, 23, 64, 100])
@pytest.mark.parametrize("first", [1, 4, 50])
def test_capacity_is_found_with_few_measurements(capacity: int, first: int) -> None:
    tried: list[int] = []

    def is_sustained(streams: int) -> bool:
        tried.append(streams)
        return streams <= capacity

    assert find_capacity(is_sustained, first=first, maximum=64) == min(capacity, 64)
    assert len(tried) == len(set(tried)) <= 2 + 2 * math.log2(64)
    assert all(1 <= streams <= 64 for streams in tried)
