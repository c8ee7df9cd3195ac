"""Plans of a stream: which changes need another capture process, and which other channels."""

from __future__ import annotations

from streamclf.config.service import ServiceConfig
from streamclf.supervisor.stream_plan import Geometry, StreamPlan

GEOMETRY = Geometry(fps=10, frames_per_chunk=2, height=224, width=224, resize="stretch", slots=24)


def plan(**stream: object) -> StreamPlan:
    config = ServiceConfig.model_validate({"streams": {"a": {"url": "a.mp4", **stream}}})
    return StreamPlan(source=config.streams["a"].source, geometry=GEOMETRY, settings=config.settings_of("a"))


def test_keys_of_the_classifier_need_no_other_capture_process() -> None:
    assert plan().same_capture(plan(hop=3, actions={"wave": {"on": 0.9}}, unknown_below=0.3))
    assert plan().same_capture(plan(adaptive=True, max_staleness_ms=200, motion_gate=2))
    assert plan().settings != plan(hop=3).settings
    assert plan().settings != plan(motion_gate=2).settings
    assert plan().settings != plan(unknown_below=0.3).settings


def test_keys_of_the_source_need_another_capture_process_and_pace_needs_other_channels_too() -> None:
    assert not plan().same_capture(plan(read_timeout_s=9))
    assert plan().same_channels(plan(read_timeout_s=9))
    assert not plan().same_channels(plan(pace="fast"))
