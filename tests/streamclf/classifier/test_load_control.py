"""Decisions of the load controller under overload: what it gives up, and when it restores it."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from streamclf.classifier.load_control import (
    FULL_LOAD,
    SAMPLE_INTERVAL_S,
    TARGET_LOAD,
    LoadController,
    LoadSample,
    RoundRobin,
)

STREAMS = 8
TOP = 6


@dataclass
class Plant:
    """A model of a classifier: shares of its time for all encodes and all heads at level 0, and the chunks of a window.

    `mistaken`: factor by which the real costs exceed the expected costs.
    """

    encodes: float
    heads: float
    chunks: int = 8
    mistaken: float = 1.0
    backlog: float = 0.0

    def demand(self, level: int, served: int) -> float:
        share = min(1.0, self.chunks / 2**level)
        return (self.encodes * share + self.heads / 2**level) * served / STREAMS

    def sample(self, level: int, served: int) -> LoadSample:
        """Return the next sample: under overload, chunks join a backlog; beyond 20 waiting chunks some are dropped."""
        needed = self.mistaken * self.demand(level, served)
        arrived = 10 * served
        read = arrived if needed <= 1 else int(arrived / needed)
        self.backlog = max(0.0, self.backlog + (needed - 1) * arrived)
        dropped, self.backlog = max(0, int(self.backlog - 20)), min(self.backlog, 20.0)
        return LoadSample(busy=1.0 if self.backlog else min(1.0, needed), arrived=arrived, read=read, dropped=dropped)


def run(
    controller: LoadController, plant: Plant, samples: int, top: int = TOP, start_s: float = 0.0
) -> list[tuple[int, int]]:
    """Feed samples of `plant` to the controller; return (level, paused) after each."""
    found = []
    for i in range(samples):
        sample = plant.sample(controller.level, STREAMS - controller.paused)
        controller.update(
            sample, now_s=start_s + SAMPLE_INTERVAL_S * i, streams=STREAMS, max_level=top, demand=plant.demand
        )
        found.append((controller.level, controller.paused))
    return found


def changes(states: list[tuple[int, int]]) -> int:
    return sum(one != other for one, other in pairwise(states))


def test_hops_grow_before_any_stream_is_paused() -> None:
    states = run(LoadController(), Plant(encodes=0.3, heads=1.5), 100)
    assert states[-1] == (2, 0)
    assert all(paused == 0 for _, paused in states)


def test_without_adaptive_streams_just_enough_are_paused() -> None:
    plant = Plant(encodes=2.0, heads=0.1)
    level, paused = run(LoadController(), plant, 100, top=0)[-1]
    assert level == 0
    assert plant.demand(0, STREAMS - paused) <= FULL_LOAD < plant.demand(0, STREAMS - paused + 1)


def test_streams_are_paused_where_the_longest_hop_is_not_enough() -> None:
    plant = Plant(encodes=100.0, heads=1.0)
    level, paused = run(LoadController(), plant, 200, top=5)[-1]
    assert (level, paused) == (5, STREAMS - 1)  # one stream is always served


def test_a_burst_that_is_worked_off_causes_no_change() -> None:
    controller = LoadController()
    for i in range(50):
        sample = LoadSample(busy=1.0, arrived=10, read=14, dropped=0)
        controller.update(sample, now_s=i * SAMPLE_INTERVAL_S, streams=STREAMS, max_level=TOP, demand=lambda *_: 0.5)
    assert (controller.level, controller.paused) == (0, 0)


def test_one_sample_of_full_load_is_no_overload() -> None:
    controller = LoadController()
    for i in range(100):
        bad = LoadSample(busy=1.0, arrived=10, read=5, dropped=3)
        good = LoadSample(busy=0.5, arrived=10, read=10, dropped=0)
        controller.update(
            good if i % 2 else bad, now_s=i * SAMPLE_INTERVAL_S, streams=STREAMS, max_level=TOP, demand=lambda *_: 0.75
        )
        assert (controller.level, controller.paused) == (0, 0)


@settings(max_examples=200, deadline=None)
@given(st.floats(0.05, 8), st.floats(0.0, 8), st.sampled_from([1, 4, 8, 32]), st.sampled_from([0, TOP]))
def test_a_constant_load_settles_and_a_fallen_load_restores_everything_within_a_second(
    encodes: float, heads: float, chunks: int, top: int
) -> None:
    controller, plant = LoadController(), Plant(encodes, heads, chunks)
    run(controller, plant, 50, top)
    assert changes(run(controller, plant, 300, top, start_s=50 * SAMPLE_INTERVAL_S)) <= 2
    best = (plant.demand(controller.level, STREAMS - controller.paused), controller.level, controller.paused)
    assert best[0] <= 1 or (controller.level, controller.paused) == (top, STREAMS - 1)
    plant.encodes, plant.heads, plant.backlog = 0.02, 0.02, 0.0
    states = run(controller, plant, int(1 / SAMPLE_INTERVAL_S), top, start_s=1000)
    assert states[-1] == (0, 0)
    if best[1:] != (0, 0):
        assert controller.has_reserve


@settings(max_examples=100, deadline=None)
@example(encodes=1.453125, heads=1.4453125, mistaken=1.44921875, top=0)
@given(encodes=st.floats(1.0, 6), heads=st.floats(0.5, 6), mistaken=st.floats(1.2, 3.0), top=st.sampled_from([0, TOP]))
def test_wrong_expectations_cause_no_oscillation(encodes: float, heads: float, mistaken: float, top: int) -> None:
    controller, plant = LoadController(), Plant(encodes, heads, mistaken=mistaken)
    minute = int(60 / SAMPLE_INTERVAL_S)
    states = run(controller, plant, 5 * minute, top)
    assert changes(states[minute:]) <= 4 * 4 * 2  # a few restorations, each withdrawn again, once a minute


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.builds(
            LoadSample,
            busy=st.floats(0, 1.2),
            arrived=st.integers(0, 50),
            read=st.integers(0, 50),
            dropped=st.integers(0, 20),
        ),
        max_size=60,
    ),
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 6)), min_size=60, max_size=60),
    st.floats(0, 4),
)
def test_any_samples_keep_level_and_paused_within_bounds(
    samples: list[LoadSample], present: list[tuple[int, int]], share: float
) -> None:
    controller = LoadController()
    for i, (sample, (streams, top)) in enumerate(zip(samples, present, strict=False)):
        before = (controller.level, controller.paused)
        changed = controller.update(
            sample,
            now_s=i * SAMPLE_INTERVAL_S,
            streams=streams,
            max_level=top,
            demand=lambda level, served: share * served / 2**level,
        )
        assert 0 <= controller.level <= top
        assert 0 <= controller.paused <= max(0, streams - 1)
        assert changed == (before != (controller.level, controller.paused))


def test_a_wrong_restoration_is_not_repeated_at_the_same_load() -> None:
    """The controller restores at a demand of 0.75, is overloaded again at once, and does not restore at 0.75 again."""
    controller, tries, at_s = LoadController(), 0, 0.0
    bad, good = (
        LoadSample(busy=1.0, arrived=10, read=5, dropped=3),
        LoadSample(busy=0.4, arrived=10, read=10, dropped=0),
    )
    for _ in range(100):
        before = controller.level
        sample = good if controller.level else bad
        controller.update(
            sample, now_s=at_s, streams=1, max_level=1, demand=lambda level, _: 0.75 if level == 0 else 0.4
        )
        tries += controller.level < before
        at_s += SAMPLE_INTERVAL_S
    assert tries == 1
    assert TARGET_LOAD > 0.75  # so the first restoration seemed right


def test_a_load_that_rises_and_falls_does_not_lower_the_target() -> None:
    controller, at_s = LoadController(), 0.0
    for _ in range(20):
        plant = Plant(encodes=0.1, heads=3.0)
        run(controller, plant, 20, start_s=at_s)
        assert controller.level == 2
        plant.encodes, plant.heads, plant.backlog = 0.1, 0.6, 0.0  # 0.7 of its time: just below the target
        run(controller, plant, 5, start_s=at_s + 5)
        assert controller.level == 0
        at_s += 10


@given(
    st.lists(st.tuples(st.integers(1, 9), st.integers(0, 8), st.floats(0.01, 30)), max_size=60),
)
def test_rotation_pauses_as_many_streams_as_requested(steps: list[tuple[int, int, float]]) -> None:
    rotation, now_s = RoundRobin(5.0), 0.0
    for count, paused, passed_s in steps:
        now_s += passed_s
        names = [f"s{i}" for i in range(count)]
        rotation.update(names, min(paused, count - 1), now_s)
        assert len(rotation.paused) == min(paused, count - 1)
        assert rotation.paused <= set(names)


@pytest.mark.parametrize(("streams", "paused"), [(8, 1), (8, 5), (3, 2), (5, 2), (40, 20)])
def test_rotation_is_fair(streams: int, paused: int) -> None:
    rotation, names = RoundRobin(4.0), [f"s{i}" for i in range(streams)]
    served = dict.fromkeys(names, 0)
    for step in range(streams * 400):
        rotation.update(names, paused, step * 0.2)
        for name in names:
            served[name] += name not in rotation.paused
    assert max(served.values()) - min(served.values()) <= 2 * 4.0 / 0.2  # two periods
    assert min(served.values()) > 0
