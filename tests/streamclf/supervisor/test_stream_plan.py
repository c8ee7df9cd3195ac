"""Plans of a stream: which changes need another capture process, and which other channels."""

from __future__ import annotations

from streamclf.config.classify import HeadSettings
from streamclf.config.service import ServiceConfig
from streamclf.supervisor.stream_plan import Geometry, StreamPlan

GEOMETRY = Geometry(fps=10, frames_per_chunk=2, height=224, width=224, resize="stretch", slots=24)


def plan(**stream: object) -> StreamPlan:
    config = ServiceConfig.model_validate({"streams": {"a": {"url": "a.mp4", **stream}}})
    head = HeadSettings(actions=config.actions_of("a"))
    return StreamPlan(source=config.streams["a"].source, geometry=GEOMETRY, settings=config.settings_of("a"), head=head)


def test_keys_of_the_classifier_need_no_other_capture_process() -> None:
    assert plan().same_capture(plan(hop=3, actions={"wave": {"on": 0.9}}, unknown_below=0.3))
    assert plan().same_capture(plan(adaptive=True, max_staleness_ms=200, motion_gate=2))
    assert plan().classification != plan(hop=3).classification
    assert plan().classification != plan(motion_gate=2).classification
    assert plan().classification != plan(unknown_below=0.3).classification


def test_keys_of_the_source_need_another_capture_process_and_pace_needs_other_channels_too() -> None:
    assert not plan().same_capture(plan(read_timeout_s=9))
    assert plan().same_channels(plan(read_timeout_s=9))
    assert not plan().same_channels(plan(pace="fast"))
