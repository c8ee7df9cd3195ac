"""The placement of views on several GPUs: by measured load, and without a move that is not needed."""

from __future__ import annotations

from collections import Counter

import pytest

from streamclf.builtin_models import find_bundle
from streamclf.config.classify import HeadSettings, StreamSettings
from streamclf.config.picture_area import WHOLE
from streamclf.runtime.jobs import ClassifierLoad
from streamclf.supervisor.engine_groups import CLASSIFIER, Geometry
from streamclf.supervisor.placement import Place, Placed, Placement
from streamclf.supervisor.stream_plan import ViewPlan

GEOMETRY = Geometry.of(find_bundle("camera-events").spec)
CHUNKS_PER_S = GEOMETRY.fps / GEOMETRY.frames_per_chunk


def view(process: str | None = None, *, hop: int = 1, waits: bool = False, group: str = CLASSIFIER) -> Placed:
    plan = ViewPlan(
        classifier=group,
        stream="a",
        region=None,
        area=WHOLE,
        geometry=GEOMETRY,
        settings=StreamSettings(hop=hop),
        heads={"": HeadSettings()},
        capture_waits=waits,
    )
    return Placed(plan=plan, process=process)


def load(*, chunk_s: float = 0.001, window_s: float = 0.001, busy: float = 0.1, over: bool = False) -> ClassifierLoad:
    return ClassifierLoad(chunk_s=chunk_s, window_s={"": window_s}, busy=busy, is_overloaded=over)


def gpus(*numbers: int, capacity: int = 100, group: str = CLASSIFIER) -> Placement:
    placement = Placement()
    for number in numbers:
        placement.add(Place(name=f"{group}@{number}", group=group, device=number, capacity=capacity))
    return placement


def dealt(placement: Placement, views: list[Placed]) -> Counter[str]:
    for each, name in placement.deal(views):
        each.process = name
    return Counter(each.process or "nobody" for each in views)


def test_equal_views_are_dealt_evenly() -> None:
    assert dealt(gpus(0, 1, 2), [view() for _ in range(7)]) == {"classifier@0": 3, "classifier@1": 2, "classifier@2": 2}


def test_views_are_dealt_by_their_cost_and_not_by_their_number() -> None:
    placement = gpus(0, 1)
    placement.record_load("classifier@0", load(chunk_s=1e-5, window_s=0.01))
    frequent, rare = [view("classifier@0", hop=1)], [view("classifier@1", hop=8) for _ in range(4)]
    waiting = [view(hop=8) for _ in range(4)]
    dealt(placement, [*frequent, *rare, *waiting])
    assert {each.process for each in waiting} == {"classifier@1"}  # 5 of 8 views cost less than one


def test_a_slower_gpu_gets_fewer_views() -> None:
    placement = gpus(0, 1)
    placement.record_load("classifier@0", load(chunk_s=0.001, window_s=0.001))
    placement.record_load("classifier@1", load(chunk_s=0.003, window_s=0.003))
    assert dealt(placement, [view() for _ in range(8)]) == {"classifier@0": 6, "classifier@1": 2}


def test_all_engine_groups_of_a_gpu_share_its_time() -> None:
    placement = gpus(0, 1)
    for number in (0, 1):
        placement.add(Place(name=f"hands@{number}", group="hands", device=number, capacity=100))
    views = [view("classifier@0"), view("classifier@0"), view(group="hands"), view(group="hands")]
    dealt(placement, views)
    assert [each.process for each in views[2:]] == ["hands@1", "hands@1"]


def test_a_process_gets_no_more_views_than_its_bank_holds() -> None:
    assert dealt(gpus(0, 1, capacity=2), [view() for _ in range(5)]) == {
        "classifier@0": 2, "classifier@1": 2, "nobody": 1,
    }  # fmt: skip
    leaving = view("classifier@1")
    leaving.leaving = "classifier@0"  # its slots are in use on both
    assert dealt(gpus(0, 1, capacity=1), [leaving, view()]) == {"classifier@1": 1, "nobody": 1}


def test_a_group_that_is_held_waits() -> None:
    assert gpus(0, 1).deal([view()], held={CLASSIFIER}) == []


def test_a_gpu_that_is_back_takes_its_views_back_and_no_more() -> None:
    placement = gpus(0, 1)
    views = [view("classifier@0") for _ in range(6)]
    views[4].lost = views[5].lost = "classifier@1"
    moves = placement.level("classifier@1", views)
    assert views[4] in moves
    assert views[5] in moves
    assert len(moves) == 3
    for each in moves:
        each.process, each.leaving = "classifier@1", "classifier@0"
    assert placement.level("classifier@1", views) == []
    assert placement.level("classifier@0", views) == []


def test_views_that_lose_by_a_move_stay() -> None:
    placement = gpus(0, 1)
    assert placement.level("classifier@1", [view("classifier@0")]) == []
    files = [view("classifier@0", waits=True) for _ in range(4)]
    assert placement.level("classifier@1", files) == []
    others = [view("hands@0", group="hands") for _ in range(4)]
    placement.add(Place(name="hands@0", group="hands", device=0, capacity=9))
    assert placement.level("classifier@1", others) == []


@pytest.mark.parametrize(("busy", "moves"), [(0.2, True), (0.79, False)])
def test_an_overloaded_gpu_gives_one_view_to_a_gpu_with_room(busy: float, moves: bool) -> None:
    placement = gpus(0, 1)
    cost_s = 0.1 / CHUNKS_PER_S  # a view needs 0.1 of the time
    placement.record_load("classifier@0", load(chunk_s=cost_s / 2, window_s=cost_s / 2, busy=1.2, over=True))
    placement.record_load("classifier@1", load(chunk_s=cost_s / 2, window_s=cost_s / 2, busy=busy))
    views = [view("classifier@0") for _ in range(12)]
    found = placement.relieve("classifier@0", views)
    assert (found is not None) == moves
    if found:
        assert found[0] in views
        assert found[1] == "classifier@1"


def test_an_overloaded_gpu_keeps_its_views_if_the_other_one_is_overloaded_too_or_cannot_gain() -> None:
    placement = gpus(0, 1)
    for number in (0, 1):
        placement.record_load(f"classifier@{number}", load(busy=1.5, over=True))
    assert placement.relieve("classifier@0", [view("classifier@0") for _ in range(4)]) is None
    placement.record_load("classifier@1", load(busy=0.1))
    assert placement.relieve("classifier@0", [view("classifier@0")]) is None  # its only view would be as late there
