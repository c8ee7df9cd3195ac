"""Processor time by stage: each stage counts its own time, and nothing is counted unless it is asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from streamclf.runtime.profiling import STAGES, CountedStages, Stages, open_stages, read_stages


def test_an_inner_stage_is_not_counted_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0

    def clock() -> int:
        return now

    monkeypatch.setenv("STREAMCLF_STAGES", str(tmp_path))
    stages = open_stages("capture-door", clock=clock)
    for item in stages.through("decode", range(3)):
        now += 1000  # outside every stage: not the decoder's time
        with stages("convert"):
            now += 10 + item
            with stages("ring", 4):
                now += 100
            now += 1
    (found,) = read_stages(tmp_path).values()
    assert found["convert"] == (10 + 11 + 12 + 3, 3)
    assert found["ring"] == (300, 12)
    assert found["decode"] == (0, 3)
    assert list(stages.through("encode", [])) == []
    (found,) = read_stages(tmp_path).values()
    assert found["encode"] == (0, 0), "the end of a source is not an item"
    assert isinstance(stages, CountedStages)
    assert list(found) == list(STAGES)


def test_without_the_variable_nothing_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STREAMCLF_STAGES", raising=False)
    stages = open_stages("capture-door")
    assert type(stages) is Stages
    source = iter([1])
    assert stages.through("decode", source) is source
    with stages("ring"):
        pass
