"""A cover that a model recognises only while it comes is one action, from its onset to its removal."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.bundles import make_change_bundle
from support.classifier_rig import Camera, Posted, drain
from support.gpu_double import double_platform
from support.serving import serve_engines

import engines.backends.tensorrt
import engines.opening
from engines.bundle import Bundle
from engines.opening import open_engine
from engines.protocol import SharingEngine
from streamclf.classifier.classifier import Classifier
from streamclf.classifier.feed import MAX_BURST, bank_slots
from streamclf.classifier.scene_check import scene_slots
from streamclf.config.actions import SCENE_LOST, ActionConfig, StreamActions
from streamclf.config.classify import HeadSettings

CAMERAS = 2
SCENE, CLOTH, DUSK = 60, 180, 120
ACTION = ActionConfig(min_s=0.2, smooth_s=0, cooldown_s=0)
CHUNKS_PER_S = 5


@pytest.fixture(scope="module", params=["onnxruntime", "tensorrt"])
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharingEngine]:
    """An engine that computes at once, and one that queues its work; their batches are smaller than the comparison."""
    bundle = make_change_bundle(tmp_path_factory.mktemp("bundles") / "change", hides_scene=("covered",))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STREAMCLF_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(engines.backends.tensorrt, "load_platform", double_platform)
        patch.setattr(engines.opening, "missing_libraries", lambda backend: [])
        slots = CAMERAS * bank_slots(bundle.spec) + scene_slots(bundle.spec)
        engine = open_engine(bundle, backend=request.param, precision="fp32", max_batch=2, bank_slots=slots, threads=1)
        yield engine
        engine.close()


def open_for_bursts(bundle: Bundle) -> SharingEngine:
    """Open an engine whose batches hold all the chunks that a feed adds to one batch."""
    slots = CAMERAS * bank_slots(bundle.spec) + scene_slots(bundle.spec)
    return open_engine(
        bundle, backend="onnxruntime", precision="fp32", max_batch=MAX_BURST, bank_slots=slots, threads=1
    )


@pytest.fixture(scope="module")
def late_engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharingEngine]:
    """An engine for bursts."""
    path = tmp_path_factory.mktemp("bundles") / "change"
    engine = open_for_bursts(make_change_bundle(path, hides_scene=("covered",)))
    yield engine
    engine.close()


class Rig:
    """Cameras whose chunks are of one light each."""

    def __init__(
        self,
        engine: SharingEngine,
        hold_s: float = 600,
        *,
        cameras: int = 1,
        slots: bool = True,
        off: float = 0.5,
        labels: dict[str, ActionConfig] | None = None,
    ) -> None:
        covered = ACTION.model_copy(update={"hold_s": hold_s, "off": off})
        actions = StreamActions(labels={"covered": covered} if labels is None else labels)
        heads = {"": HeadSettings(actions=actions)}
        self.cameras = [Camera(f"cam{i}", engine, i, heads=heads) for i in range(cameras)]
        self.posted = Posted()
        feeds = [camera.feed for camera in self.cameras]
        scene_slot = CAMERAS * bank_slots(engine.spec) if slots else None
        self.classifier = Classifier(serve_engines({"": engine}), feeds, self.posted, scene_slot=scene_slot)  # type: ignore[arg-type]

    def show(self, level: int, seconds: float, camera: int = 0) -> None:
        for _ in range(round(seconds * CHUNKS_PER_S)):
            self.cameras[camera].chunk(level=level)
            drain(self.classifier)

    def actions(self, camera: int = 0) -> list[tuple[str, float, str | None]]:
        """Return (phase, at_s, reason) of starts and ends."""
        return [
            (body["phase"], body["at_s"], body.get("reason"))
            for body in self.bodies(camera)
            if body.get("phase") in ("start", "end")
        ]

    def bodies(self, camera: int = 0) -> list[dict[str, Any]]:
        self.classifier.publish_submitted()
        return self.posted.of(f"cam{camera}")


def test_one_action_lasts_from_the_onset_of_a_cover_to_its_removal(engine: SharingEngine) -> None:
    rig = Rig(engine)
    rig.show(SCENE, 4)
    rig.show(CLOTH, 8)
    rig.show(SCENE, 4)
    start, end = rig.actions()
    assert start[0] == "start"
    assert 4 <= start[1] <= 5
    assert (end[0], end[2]) == ("end", "scene")
    assert 12 <= end[1] <= 14
    lost = {body["window"]["end_s"]: body.get("scene_lost") for body in rig.bodies() if "window" in body}
    assert lost[3.0] is lost[15.0] is None  # no action runs
    assert lost[8.0] is not None
    assert lost[8.0] > 0.9


def test_without_slots_or_without_a_hold_the_action_ends_while_the_cover_lies_there(engine: SharingEngine) -> None:
    for rig in (Rig(engine, slots=False), Rig(engine, hold_s=0)):
        rig.show(SCENE, 4)
        rig.show(CLOTH, 8)
        assert [action[2] for action in rig.actions() if action[0] == "end"] == ["below"]
        assert not any("scene_lost" in body for body in rig.bodies())


def test_a_scene_that_changed_meanwhile_holds_the_action_for_hold_s_only(engine: SharingEngine) -> None:
    rig = Rig(engine, hold_s=5)
    rig.show(SCENE, 4)
    rig.show(CLOTH, 2)
    rig.show(DUSK, 12)
    assert [action[2] for action in rig.actions()] == [None, "hold"]


def test_the_scene_ends_an_action_at_once_that_its_return_began(engine: SharingEngine) -> None:
    """After `hold_s`, the cover counts as the scene. Its removal looks like a cover, but the earlier scene is known."""
    rig = Rig(engine, hold_s=5)
    rig.show(SCENE, 4)
    rig.show(CLOTH, 20)
    assert [action[2] for action in rig.actions()] == [None, "hold"]
    rig.show(SCENE, 4)
    (start, end) = rig.actions()[2:]
    assert end[1] - start[1] <= 1
    rig.show(CLOTH, 4)  # the same cover again: it must not count as the scene
    assert len(rig.actions()) == 5


def test_two_feeds_have_scenes_of_their_own(engine: SharingEngine) -> None:
    rig = Rig(engine, cameras=2)
    for seconds, levels in ((4, (SCENE, CLOTH)), (6, (CLOTH, SCENE)), (4, (SCENE, SCENE))):
        for _ in range(seconds * CHUNKS_PER_S):
            for camera, level in enumerate(levels):
                rig.show(level, 1 / CHUNKS_PER_S, camera)
    assert [action[2] for action in rig.actions(0)] == [None, "scene"]
    assert [action[2] for action in rig.actions(1)] == [None]


def test_a_camera_that_is_covered_from_the_beginning_holds_nothing(engine: SharingEngine) -> None:
    rig = Rig(engine)
    rig.show(SCENE, 0.8)
    rig.show(CLOTH, 8)
    assert [action[2] for action in rig.actions()] == [None, "below"]


def test_nothing_is_compared_after_the_hold_was_switched_off(engine: SharingEngine) -> None:
    rig = Rig(engine)
    rig.show(SCENE, 4)
    rig.show(CLOTH, 4)
    assert rig.bodies()[-1]["scene_lost"] > 0.9
    actions = StreamActions(labels={"covered": ACTION.model_copy(update={"hold_s": 0.0})})
    feed = rig.cameras[0].feed
    rig.classifier.update_feed(feed.name, feed.settings, {"": HeadSettings(actions=actions)})
    rig.show(CLOTH, 2)
    assert [action[2] for action in rig.actions()] == [None, "below"]
    assert "scene_lost" not in rig.bodies()[-1]
    scenes = rig.classifier._scenes
    assert (scenes._memories, scenes._earlier, scenes._running) == ({}, {}, {})


def test_the_cost_of_a_comparison_is_without_the_wait_for_other_windows(
    engine: SharingEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig, now, costs = Rig(engine), [0.0], list[float]()
    take = rig.classifier._results.take

    def take_slowly(batch: Any) -> Any:
        now[0] += 1
        return take(batch)

    monkeypatch.setattr(rig.classifier, "_clock", lambda: now[0])
    monkeypatch.setattr(rig.classifier._results, "take", take_slowly)
    monkeypatch.setattr(rig.classifier._shedder, "record_comparison", costs.append)
    rig.show(SCENE, 2)
    for _ in range(4):  # two batches: the second one publishes the windows of the first
        rig.cameras[0].chunk(level=SCENE)
    drain(rig.classifier)
    rig.classifier.publish_submitted()
    assert now[0] > 2
    assert max(costs) == 0


def test_a_feed_and_a_model_that_leave_are_forgotten(engine: SharingEngine) -> None:
    rig = Rig(engine, hold_s=5)
    rig.show(SCENE, 4)
    rig.show(CLOTH, 20)
    scenes = rig.classifier._scenes
    assert scenes._memories
    assert scenes._earlier
    rig.classifier.remove_feed("cam0")
    assert (scenes._memories, scenes._earlier, scenes._running) == ({}, {}, {})


@pytest.mark.parametrize("waiting", range(4))
def test_a_late_classifier_compares_before_the_action_ends(late_engine: SharingEngine, waiting: int) -> None:
    """One batch may hold all windows in which the label is probable, and some after them."""
    rig = Rig(late_engine)
    rig.show(SCENE, 4)
    for level, chunks in ((SCENE, waiting), (CLOTH, 40), (SCENE, 20)):
        for _ in range(chunks):
            rig.cameras[0].chunk(level=level)
            if rig.cameras[0].feed.unread == MAX_BURST:
                drain(rig.classifier)
    drain(rig.classifier)
    assert [action[2] for action in rig.actions()] == [None, "scene"]
    assert rig.actions()[1][1] > 12


@pytest.mark.parametrize("covered", [6, 9])
def test_an_action_that_begins_in_the_batch_in_which_another_ends_is_compared_by_itself(
    covered: int, tmp_path: Path
) -> None:
    """The camera is covered when the service starts. The cover is removed, and laid on again for some chunks."""
    engine = open_for_bursts(make_change_bundle(tmp_path / "change", light=0.1, hides_scene=("covered",)))
    found = []
    for late in (0, MAX_BURST):
        rig = Rig(engine)
        rig.show(CLOTH, 3)
        rig.show(SCENE, 3)
        assert [phase for phase, _, _ in rig.actions()] == ["start"]
        levels = [SCENE, *[CLOTH] * covered, *[SCENE] * 40]
        for number, level in enumerate(levels, start=1):
            rig.cameras[0].chunk(level=level)
            if number >= late:
                drain(rig.classifier)
        found.append(rig.actions())
    assert found[0] == found[1]
    assert [phase for phase, _, _ in found[0]] == ["start", "end"] * 3
    assert found[0][1][1] < found[0][2][1] <= (30 + MAX_BURST) / CHUNKS_PER_S
    engine.close()


def test_a_scene_is_remembered_although_a_label_is_probable_for_long(tmp_path: Path) -> None:
    """The light changes slowly. The label stays between `off` and `on`, so no action begins."""
    engine = open_for_bursts(make_change_bundle(tmp_path / "change", light=0.1, hides_scene=("covered",)))
    rig = Rig(engine, off=0.105)
    rig.show(170, 12)
    for level in range(170, 198, 2):
        rig.show(level, 1 / CHUNKS_PER_S)
    rig.show(198, 65)
    assert rig.actions() == []
    assert dict(rig.bodies()[-1]["top"])["covered"] > 0.105
    rig.show(140, 8)
    rig.show(186, 4)
    start, end = rig.actions()
    assert (end[2], end[1] - start[1] > 8) == ("scene", True)
    engine.close()


def test_an_action_that_the_removal_of_a_cover_began_ends_soon(tmp_path: Path) -> None:
    """The camera is covered when the service starts. Later it is covered again, as usual."""
    engine = open_for_bursts(make_change_bundle(tmp_path / "change", light=0.1, hides_scene=("covered",)))
    rig = Rig(engine)
    rig.show(CLOTH, 10)
    assert rig.actions() == []
    rig.show(SCENE, 6)
    start, end = rig.actions()
    assert 10 < start[1] < end[1] < 14
    rig.show(CLOTH, 8)
    rig.show(SCENE, 4)
    start, end = rig.actions()[2:]
    assert start[1] < 17
    assert (end[2], 24 < end[1] < 26) == ("scene", True)
    engine.close()


def test_a_scene_from_before_a_cover_that_came_slowly_is_known(engine: SharingEngine) -> None:
    """The model misses that the cover comes. Its removal begins an action, which ends at once."""
    rig = Rig(engine)
    rig.show(SCENE, 2)
    for level in range(SCENE, CLOTH, 8):
        rig.show(level, 1 / CHUNKS_PER_S)
    rig.show(CLOTH, 14)
    assert rig.actions() == []
    rig.show(SCENE, 4)
    start, end = rig.actions()
    assert 19 < start[1] < end[1] < 21
    rig.show(CLOTH, 4)
    rig.show(SCENE, 3)
    start, end = rig.actions()[2:]
    assert start[1] < 24
    assert (end[2], 27 < end[1] < 29) == ("scene", True)


def watching(hold_s: float = 600, **others: ActionConfig) -> dict[str, ActionConfig]:
    return {SCENE_LOST: ActionConfig(min_s=1, hold_s=hold_s, cooldown_s=0).for_scene(), **others}


def test_scene_lost_needs_no_label(engine: SharingEngine) -> None:
    """The model's labels have no action, so nothing but the comparison with the scene can begin one."""
    rig = Rig(engine, labels=watching())
    rig.show(SCENE, 10)
    rig.show(CLOTH, 6)
    rig.show(SCENE, 4)
    start, end = rig.actions()
    assert start[0] == "start"
    assert 11 <= start[1] <= 12.5
    assert (end[0], end[2]) == ("end", "scene")
    assert 16 <= end[1] <= 18
    lost = {body["window"]["end_s"]: body["scene_lost"] for body in rig.bodies() if "window" in body}
    assert lost[9.0] < 0.1 < 0.9 < lost[15.0]


def test_scene_lost_ignores_what_passes_and_a_scene_that_changes_slowly(engine: SharingEngine) -> None:
    rig = Rig(engine, labels=watching())
    rig.show(SCENE, 10)
    rig.show(CLOTH, 0.6)
    rig.show(SCENE, 10)
    for level in range(SCENE, SCENE + 20):
        rig.show(level, 2)
    assert rig.actions() == []


def test_after_hold_s_the_picture_is_the_scene_and_the_earlier_one_may_return(engine: SharingEngine) -> None:
    rig = Rig(engine, labels=watching(hold_s=5))
    rig.show(SCENE, 10)
    rig.show(CLOTH, 30)
    assert [action[2] for action in rig.actions()] == [None, "hold"]
    rig.show(SCENE, 10)
    assert len(rig.actions()) == 2, "the scene from before the action has returned"
    rig.show(DUSK, 3)
    assert len(rig.actions()) == 3, "and another picture is not it"


def test_scene_lost_lasts_as_long_as_a_label_hides_the_scene(engine: SharingEngine) -> None:
    """Otherwise, it would end after its `hold_s`, and begin again at once, because the scene is still hidden."""
    covered = ACTION.model_copy(update={"hold_s": 15.0})
    rig = Rig(engine, labels=watching(hold_s=5, covered=covered))
    rig.show(SCENE, 10)
    rig.show(CLOTH, 40)
    ends = [(body["label"], body["reason"]) for body in rig.bodies() if body.get("phase") == "end"]
    assert sorted(ends) == [("covered", "hold"), (SCENE_LOST, "hold")]


def test_a_camera_that_is_covered_from_the_beginning_has_lost_no_scene(engine: SharingEngine) -> None:
    rigs = [Rig(engine, labels=watching()) for _ in range(2)]
    for rig, seconds in zip(rigs, (0.6, 4), strict=True):
        rig.show(SCENE, seconds)
        rig.show(CLOTH, 20)
    assert [[action[0] for action in rig.actions()] for rig in rigs] == [[], ["start"]]


def test_nothing_is_compared_after_scene_lost_was_left_out(engine: SharingEngine) -> None:
    rig = Rig(engine, labels=watching())
    rig.show(SCENE, 8)
    rig.classifier.update_feed(
        "cam0", rig.cameras[0].feed.settings, {"": HeadSettings(actions=StreamActions(labels={"covered": ACTION}))}
    )
    before = len(rig.bodies())
    rig.show(CLOTH, 4)
    assert not any("scene_lost" in body for body in rig.bodies()[before:])
