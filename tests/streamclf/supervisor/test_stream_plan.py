"""Plans of a stream: which changes need another capture process, and which other channels."""

from __future__ import annotations

from dataclasses import replace

from streamclf.builtin_models import find_bundle
from streamclf.config.actions import HOLD_S
from streamclf.config.service import ServiceConfig
from streamclf.config.views import UNNAMED
from streamclf.supervisor.checked_config import CheckedConfig
from streamclf.supervisor.engine_groups import CLASSIFIER, EngineKey
from streamclf.supervisor.stream_plan import StreamPlan, ViewPlan, count_feeds, count_rings, plan_streams

CAMERA, GESTURES = find_bundle("camera-events"), find_bundle("gestures")
KEYS = {"camera": EngineKey.of(CAMERA, "auto"), "hands": EngineKey.of(GESTURES, "auto")}
NAMES = {KEYS["camera"]: "classifier[camera]", KEYS["hands"]: "classifier[hands]"}


def plan(**stream: object) -> StreamPlan:
    config = ServiceConfig.model_validate({"streams": {"a": {"url": "a.mp4", **stream}}})
    return plan_streams(CheckedConfig(config, {UNNAMED: CAMERA}), {KEYS["camera"]: CLASSIFIER})["a"]


def view(**stream: object) -> ViewPlan:
    return plan(**stream).views[CLASSIFIER]


def several(**config: object) -> CheckedConfig:
    raw = {"models": {"camera": "camera-events", "hands": "gestures", "again": "camera-events"}, **config}
    return CheckedConfig(ServiceConfig.model_validate(raw), {"camera": CAMERA, "hands": GESTURES, "again": CAMERA})


def test_keys_of_the_classifier_need_no_other_capture_process() -> None:
    assert plan().same_capture(plan(hop=3, actions={"moved": {"on": 0.9}}, unknown_below=0.3))
    assert plan().same_capture(plan(adaptive=True, max_staleness_ms=200, motion_gate=2))
    assert plan().same_capture(plan(region=[0, 0, 0.5, 0.5]))
    assert view().update != view(hop=3).update
    assert view().update != view(motion_gate=2).update
    assert view().update != view(unknown_below=0.3).update
    assert view().same_channels(view(hop=3, region=[0, 0, 0.5, 0.5]))


def test_decode_needs_no_other_capture_process_and_follows_the_models() -> None:
    """With `auto`, one model that needs exact pictures decides for the whole stream."""
    assert plan(decode="exact").same_capture(plan(decode="fast"))
    checked = several(streams={"a": {"url": "a.mp4"}, "b": {"url": "b.mp4", "models": ["hands"]}})
    for needs, expected in (("auto", {"a": "auto", "b": "auto"}), ("exact", {"a": "exact", "b": "auto"})):
        spec = CAMERA.spec.model_copy(update={"decode": needs})
        bundles = {**checked.bundles, "camera": replace(CAMERA, spec=spec), "again": replace(CAMERA, spec=spec)}
        found = plan_streams(CheckedConfig(checked.config, bundles), NAMES)
        assert {name: each.source.decode for name, each in found.items()} == expected
    for mode in ("exact", "fast"):
        found = plan_streams(several(streams={"a": {"url": "a.mp4", "decode": mode}}), NAMES)
        assert found["a"].source.decode == mode, "an explicit value stays"


def test_keys_of_the_source_need_another_capture_process_and_pace_needs_other_channels_too() -> None:
    assert not plan().same_capture(plan(read_timeout_s=9))
    assert view().same_channels(view(read_timeout_s=9))
    assert not view().same_channels(view(pace="fast"))


def test_a_stream_has_one_view_for_each_engine_group_and_region() -> None:
    checked = several(
        streams={
            "door": {"camera": 0, "models": ["hands", "again", "camera"]},
            "yard": {
                "camera": 1,
                "models": ["camera"],
                "regions": {"gate": [0, 0, 0.5, 1], "path": {"region": [0.5, 0, 1, 1], "models": ["camera", "hands"]}},
            },
        },
    )
    plans = plan_streams(checked, NAMES)
    assert {key: [*view.heads] for key, view in plans["door"].views.items()} == {
        "classifier[hands]": ["hands"],
        "classifier[camera]": ["again", "camera"],
    }
    assert {(view.feed, view.region, *view.heads) for view in plans["yard"].views.values()} == {
        ("yard/gate", "gate", "camera"),
        ("yard/path", "path", "camera"),
        ("yard/path", "path", "hands"),
    }
    assert len(plans["yard"].views) == 3
    assert count_feeds(checked) == {KEYS["camera"]: 3, KEYS["hands"]: 2}
    assert sum(count_rings(checked).values()) == 5


def test_the_actions_of_a_stream_go_to_the_models_that_have_their_labels() -> None:
    wave = GESTURES.spec.labels[0]
    checked = several(
        actions={"covered": {"on": 0.7}, f"hands/{wave}": {"min_s": 2}},
        streams={"door": {"camera": 0, "models": ["camera", "hands"], "actions": {"camera/covered": {"off": 0.6}}}},
    )
    views = plan_streams(checked, NAMES)["door"].views
    (camera,), (hands,) = views["classifier[camera]"].heads.values(), views["classifier[hands]"].heads.values()
    assert {label: (each.on, each.off) for label, each in camera.actions.labels.items()} == {"covered": (0.7, 0.6)}
    assert {label: each.min_s for label, each in hands.actions.labels.items()} == {wave: 2}
    assert camera.actions.labels["covered"].hold_s == HOLD_S  # camera-events says that it hides the scene
    assert hands.actions.labels[wave].hold_s is None


def test_the_first_actions_of_a_stream_with_examples_need_no_other_capture_process() -> None:
    """A taught model that went live restarted the capture process, which lost the last minute of the stream."""

    def planned(**config: object) -> StreamPlan:
        raw = {"model": "camera-events", "streams": {"a": {"camera": 0}}, "clips": {}, **config}
        checked = CheckedConfig(ServiceConfig.model_validate(raw), {UNNAMED: CAMERA})
        return plan_streams(checked, {KEYS["camera"]: CLASSIFIER})["a"]

    actions = {"actions": {"covered": {}}}
    assert planned(examples={}).same_capture(planned(examples={}, **actions))
    assert not planned().same_capture(planned(**actions))
    assert planned(examples={}).same_capture(planned(examples={"uncertain": 5, "models": "other"}))
    assert not planned(examples={}).same_capture(planned(examples={"last_s": 30}))
