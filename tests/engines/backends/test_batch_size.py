"""A batch is filled up to the last size while that costs less than a change of the size."""

import time

import pytest

from engines.backends.batch_size import BatchCost, BatchSizes, measure_batch_cost

LIGHT = BatchCost(item_s=0.25, change_s=1.5)


@pytest.mark.parametrize(
    ("cost", "counts", "sizes"),
    [
        (LIGHT, [3, 2, 3, 2, 1], [3, 3, 3, 3, 3]),
        (LIGHT, [8, 1, 1], [8, 1, 1]),  # 7 items cost more than a change
        (LIGHT, [4, 1, 1, 1, 1], [4, 4, 4, 1, 1]),  # the third batch would waste more than a change together
        (LIGHT, [4, 1, 2, 1, 2, 1], [4, 4, 4, 2, 2, 2]),  # the largest batch since the last change
        (LIGHT, [1, 5, 2], [1, 5, 5]),
        (BatchCost(item_s=40.0, change_s=1.5), [3, 2, 1, 3], [3, 2, 1, 3]),
    ],
)
def test_a_size_is_kept_while_that_is_cheaper(cost: BatchCost, counts: list[int], sizes: list[int]) -> None:
    chooser = BatchSizes(cost)
    assert [chooser.choose(count) for count in counts] == sizes


def test_without_a_measurement_no_batch_is_filled() -> None:
    chooser = BatchSizes()
    assert [chooser.choose(count) for count in (4, 3, 1, 2)] == [4, 3, 1, 2]


def test_the_cost_of_an_item_and_of_a_change_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s, last = 0.0, 0

    def compute(size: int) -> None:
        nonlocal now_s, last
        now_s += 1.0 + 0.25 * size + (1.5 if size != last else 0.0)
        last = size

    monkeypatch.setattr(time, "process_time", lambda: now_s)
    cost = measure_batch_cost(compute)
    assert (cost.item_s, cost.change_s) == (pytest.approx(0.25), pytest.approx(1.5))
