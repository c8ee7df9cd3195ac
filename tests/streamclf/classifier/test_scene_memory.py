"""The scene from before an action is known, however long the stream runs."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from streamclf.classifier.scene_memory import INTERVAL_S, SCENES, SceneMemory


def fill(memory: SceneMemory, times: list[float]) -> list[float]:
    """Add a stretch, with its time as features, at each of `times` that is due; return those."""
    added = []
    for at_s in times:
        if memory.is_due(at_s):
            memory.add(at_s, np.full((4, 1), at_s, np.float32))
            added.append(at_s)
    return added


def known(memory: SceneMemory, at_s: float) -> list[float]:
    found = memory.before(at_s)
    return [] if found is None else found[:, 0, 0].tolist()


def test_a_stretch_is_kept_every_two_seconds_and_the_oldest_ones_are_used() -> None:
    memory = SceneMemory()
    times = [number * INTERVAL_S / 4 for number in range(101)]
    assert fill(memory, times) == times[::4]
    assert known(memory, 100.0) == [44.0, 46.0]  # the last ones may show how the cover came
    assert known(memory, 45.5) == [44.0]
    assert known(memory, 43.0) == []


def old(memory: SceneMemory, at_s: float) -> float | None:
    found = memory.long_before(at_s)
    return None if found is None else float(found[0, 0, 0])


def test_a_stretch_from_about_a_minute_ago_is_known() -> None:
    memory = SceneMemory()
    fill(memory, [2.0 * number for number in range(101)])
    assert old(memory, 200.0) == 140.0
    assert old(memory, 100.0) is None


@given(st.lists(st.integers(0, 50), max_size=60), st.integers(0, 3000))
def test_the_old_stretch_is_older_than_the_others_and_the_memory_is_bounded(steps: list[int], at_s: int) -> None:
    memory = SceneMemory()
    added = fill(memory, np.cumsum(steps, dtype=float).tolist())
    latest, oldest = known(memory, at_s), old(memory, at_s)
    assert latest == [each for each in added[-4:] if each <= at_s][:SCENES]
    assert oldest is None or (oldest in added and oldest < min([at_s, *latest]))
    assert max(len(memory._stretches), len(memory._old)) <= 4


def test_while_a_label_is_probable_the_stretches_are_farther_apart() -> None:
    memory = SceneMemory()
    due = []
    for at_s in map(float, range(70)):
        if memory.is_due(at_s, may_be_hidden=True):
            memory.add(at_s, np.zeros((4, 1), np.float32))
            due.append(at_s)
    assert due == [0.0, 20.0, 40.0, 60.0]


def test_a_long_stream_needs_no_more_memory() -> None:
    memory = SceneMemory()
    fill(memory, [float(second) for second in range(10_000)])
    assert len(memory._stretches) == len(memory._old) == 4


def test_after_the_clock_begins_again_the_scene_is_still_known() -> None:
    memory = SceneMemory()
    fill(memory, [10.0, 12.0])
    assert memory.is_due(0.0)
    fill(memory, [0.0])
    assert known(memory, -1.0) == [10.0, 12.0]
    memory = SceneMemory()
    fill(memory, [2.0 * number for number in range(40)])
    fill(memory, [0.0, 2.0])
    assert known(memory, 2.0) == [76.0, 78.0]
    assert old(memory, 2.0) is None  # no time is known of either
