"""The scene from before an action is known, however long the stream runs."""

from __future__ import annotations

import numpy as np

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
    assert known(memory, 100.0) == [44.0, 46.0, 48.0]
    assert known(memory, 46.5) == [44.0, 46.0]  # the last ones may show how the cover came
    assert known(memory, 43.0) == []


def test_a_long_stream_needs_no_more_memory() -> None:
    memory = SceneMemory()
    fill(memory, [float(second) for second in range(10_000)])
    assert len(memory._stretches) == SCENES + 1


def test_after_the_clock_begins_again_the_scene_is_still_known() -> None:
    memory = SceneMemory()
    fill(memory, [10.0, 12.0])
    assert memory.is_due(0.0)
    fill(memory, [0.0])
    assert known(memory, -1.0) == [10.0, 12.0]
    assert known(memory, 0.0) == [10.0, 12.0, 0.0]
