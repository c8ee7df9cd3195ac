"""Mixtures draw from several sources by share, and all sources have the same classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.labelled import write_set

from training.data.shape import Shape
from training.data_section import MixedData
from training.errors import DataError, RecipeError

SHAPE = Shape(fps=10.0, frames_per_chunk=2, chunks=4, height=32, width=48)


def test_sources_are_mixed_by_share(tmp_path: Path) -> None:
    path = write_set(tmp_path, clips=6, validation=4)
    clips: dict[str, Any] = {"kind": "clips", "path": path, "cache": tmp_path / "cache", "workers": 1}
    mixed = MixedData.model_validate(
        {
            "parts": [
                {"share": 3, "data": clips},
                {"share": 1, "validation": False, "data": {**clips, "steps": 2}},
            ]
        }
    )
    data = mixed.open(SHAPE, seed=1, stretch=False)
    assert len(data.training.labels) == 36
    assert data.odds[:18].sum() == pytest.approx(0.75)
    assert len(data.validation.labels) == 12
    assert (data.training.steps(17), data.training.steps(18)) == (1, 2)
    assert len(data.training.frames(18)) == 2 * len(data.training.frames(0))
    other_order = MixedData.model_validate(
        {
            "parts": [
                {"share": 1, "data": clips},
                {"share": 1, "data": {**clips, "labels": ("right", "left", "still")}},
            ]
        }
    )
    with pytest.raises(DataError, match=r"the same data\.labels"):
        other_order.open(SHAPE, seed=1, stretch=False)


def test_missing_path_of_a_part_is_named_before_anything_is_rendered(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    gestures = {"kind": "synthetic_gestures", "clips": 4, "validation_clips": 4, "frames": 4, "cache": cache}
    mixed = MixedData.model_validate(
        {"parts": [{"share": 1, "data": gestures}, {"share": 1, "data": {"kind": "clips", "cache": cache}}]}
    )
    with pytest.raises(RecipeError, match=r"data\.parts\.1\.data\.path: missing"):
        mixed.open(SHAPE, seed=1, stretch=False)
    assert not cache.exists()


def test_mixture_without_validation_is_refused(tmp_path: Path) -> None:
    part = {"share": 1, "validation": False, "data": {"kind": "clips", "path": tmp_path}}
    with pytest.raises(ValueError, match="at least one must have validation: true"):
        MixedData.model_validate({"parts": [part, part]})
