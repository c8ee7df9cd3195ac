"""A prediction lists the labels that are present only for a model whose labels are independent."""

from __future__ import annotations

from typing import Any

import numpy as np

from engines.bundle import ModelSpec
from streamclf.classifier.pending_chunk import PendingChunk
from streamclf.classifier.prediction import MAX_PRESENT, TOP_K, prediction_body
from streamclf.windows.assembler import Window

LABELS = tuple(f"label {i}" for i in range(100))


def body(probabilities: np.ndarray, fast: int = 0, **spec: Any) -> dict[str, Any]:
    chosen = ModelSpec.model_construct(labels=LABELS, name="m", version="1", **spec)
    window = Window(
        slots=np.zeros(1, np.int32),
        start_pts_ns=0,
        end_pts_ns=1,
        captured_ns=0,
        frames=1,
        duplicates=0,
        corrupt=0,
        fast=fast,
        segment=0,
    )
    pending = PendingChunk(feed="a", slot=0, window=window, dropped={})
    return prediction_body(chosen, "e", pending, window, probabilities.astype(np.float32), {})


def test_present_labels_are_listed_by_probability() -> None:
    probabilities = np.linspace(0, 0.45, 100)
    probabilities[[3, 50]] = 0.55, 0.9
    found = body(probabilities, activation="sigmoid", thresholds={"label 99": 0.4, "label 98": 0.46})
    assert found["labels"] == ["label 50", "label 3", "label 99"]
    assert [label for label, _ in found["top"][:3]] == ["label 50", "label 3", "label 99"]
    assert len(found["top"]) == TOP_K
    assert body(probabilities * 0.1, activation="sigmoid")["labels"] == []
    assert len(body(np.full(100, 0.9), activation="sigmoid")["labels"]) == MAX_PRESENT


def test_labels_that_exclude_each_other_are_not_listed() -> None:
    assert "labels" not in body(np.linspace(0, 0.45, 100), thresholds={"label 0": 0.1})


def test_only_windows_with_fast_frames_say_how_they_were_decoded() -> None:
    """All other predictions stay the same, byte for byte."""
    assert "decode" not in body(np.zeros(100))
    assert body(np.zeros(100), fast=1)["decode"] == "fast"
