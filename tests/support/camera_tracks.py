"""Make tracks of a camera with chosen disturbances."""

from __future__ import annotations

from typing import Any

import numpy as np

from training.builtin.camera_events.disturbances import CameraTrack

HALF = (np.arange(16) >= 8).astype(float)
"""A signal that rises in the middle of a window of 16 frames."""


def camera_track(**signals: Any) -> CameraTrack:
    """Return the track of 16 frames in which only `signals` happen."""
    track = CameraTrack.still(16)
    for name, values in signals.items():
        setattr(track, name, np.asarray(values, float) * np.ones(16))
    return track
