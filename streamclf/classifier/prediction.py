"""Make the body of a prediction event from one classified window. Pure: no clock, no engine."""

from __future__ import annotations

from typing import Any

from engines.activation import present_labels
from engines.arrays import F32
from engines.bundle import ModelSpec
from streamclf.classifier.pending_chunk import PendingChunk
from streamclf.events.views import UNNAMED, ViewKey, view_keys
from streamclf.units import NS
from streamclf.windows.assembler import Window

TOP_K = 10
"""Number of labels in a prediction, the most probable ones."""
MAX_PRESENT = 64
"""The most labels that a prediction lists as present."""


def prediction_body(
    spec: ModelSpec,
    engine_name: str,
    pending: PendingChunk,
    window: Window,
    probabilities: F32,
    latency_ms: dict[str, float],
    view: ViewKey = UNNAMED,
    scene_lost: float | None = None,
) -> dict[str, Any]:
    """Return the keys of a `prediction` event; `probabilities` is (K,) float32.

    `scene_lost`: how much the picture differs from the scene before an action, 0 to 1, if that was measured.
    """
    best = probabilities.argsort()[::-1][:TOP_K]
    body: dict[str, Any] = {
        "window": {
            "start_s": media_s(window.start_pts_ns),
            "end_s": media_s(window.end_pts_ns),
            "frames": window.frames,
            "duplicates": window.duplicates,
            "corrupt": window.corrupt,
            "segment": window.segment,
        },
        "top": [[spec.labels[i], round(float(probabilities[i]), 6)] for i in best],
        "model": spec.id,
        "engine": engine_name,
        "latency_ms": latency_ms,
        **view_keys(view),
    }
    if spec.activation == "sigmoid":
        body["labels"] = [spec.labels[i] for i in present_labels(spec, probabilities)[:MAX_PRESENT]]
    if window.fast:
        body["decode"] = "fast"
    if scene_lost is not None:
        body["scene_lost"] = round(scene_lost, 6)
    if pending.hop is not None:
        body["hop"] = pending.hop
    if pending.gated:
        body["gated"] = pending.gated
    if pending.dropped:
        body["dropped"] = pending.dropped
    return body


def media_s(pts_ns: int) -> float:
    """Convert media time to seconds, rounded to microseconds as in events."""
    return round(pts_ns / NS, 6)
