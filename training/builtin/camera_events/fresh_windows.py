"""Disturb undisturbed windows anew during training, so that no two windows of a run are the same.

A rendered clip shows one disturbance. With a few thousand clips, a network overfits to some of them, above all to the
few hundred covers.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from av.video.reformatter import VideoReformatter

from engines.arrays import F32, U8
from training.builtin.camera_events.disturbances import CameraTrack, TrackRenderer, draw_track
from training.builtin.camera_events.footage import MAX_NORMAL_NOISE, through_codec, window_label
from training.builtin.camera_events.footage_cache import camera_states
from training.builtin.camera_events.scenes import MIN_STRUCTURE, structure
from training.builtin.camera_events.surfaces import Rng
from training.builtin.camera_events.targets import COVER_MAP

KINDS = {
    "normal": 0.28,
    "covered": 0.28,
    "moved": 0.15,
    "shaking": 0.1,
    "defocused": 0.06,
    "flashing": 0.06,
    "noise": 0.07,
}
"""Labels and their shares. A label that a network learns less well from the rendered clips alone has a larger share."""
MAX_ZOOM = 1.5
"""The largest enlargement. It costs detail, and an image with too little detail is defocused."""
PARTIAL_COVERS = 0.5
"""Share of the drawn covers of the whole frame that are made partial."""


def fresh_window(rng: Rng, frames: U8, states: F32, other: U8, *, fps: float) -> tuple[U8, F32, F32, str]:
    """Disturb an undisturbed window: frames (F, H, W, 3) and states (F, 7) -> new frames, states, maps and label.

    The maps (F, 3, 4) are the covered share of each part of the frame. A part of the frame is enlarged, so that the
    view has room to move. `other`, frames of the same shape, is the scene that a camera shows after it was turned away.
    """
    height, width = frames.shape[1:3]
    while True:
        kind = str(rng.choice(list(KINDS), p=list(KINDS.values())))
        zoom, track = _draw(rng, kind, len(frames), fps, width / height)
        renderer = TrackRenderer(rng=rng, height=height, width=width, model_width=width)
        # The renderer moves over a larger image in units of the frame; here the frame itself is the larger image.
        path = replace(track, x=track.x / zoom, y=track.y / zoom, zoom=track.zoom * zoom)
        steps = np.hypot(np.diff(track.x, prepend=track.x[0]), np.diff(track.y, prepend=track.y[0]))
        smear = np.minimum(steps * rng.uniform(0, 0.3), 0.06)  # the distance moved during the exposure
        views = [
            renderer.view((other if path.view[i] % 2 else frames)[i], path, i, smear[i]) for i in range(len(path.x))
        ]
        # A part of a scene may show a bare wall only, which looks like a cover.
        if zoom == 1 or structure(views[0]) >= MIN_STRUCTURE <= structure(views[-1]):
            break
    images = [renderer.disturb(view, path, i) for i, view in enumerate(views)]
    if rng.random() < 0.3:  # weak noise does not survive a coarse codec at this size
        decoded = through_codec(
            rng, images, fps, worst_crf=24 if track.noise.max() > MAX_NORMAL_NOISE else 33, reduced=0
        )
        reformat = VideoReformatter()
        scaled = (reformat.reformat(frame, width=width, height=height, format="rgb24") for frame in decoded)
        images = [np.asarray(frame.to_ndarray(), np.uint8) for frame in scaled]  # codecs need even sizes
    disturbed = camera_states(track)
    disturbed[:, :2] += states[:, :2] * zoom
    disturbed[:, 2] += states[:, 2]
    disturbed[:, 4] = np.maximum(disturbed[:, 4], states[:, 4])
    covers = np.stack([renderer.cover_map(path.cover[i], *COVER_MAP) for i in range(len(path.x))])
    return np.stack(images), disturbed, covers, kind


def _draw(rng: Rng, kind: str, frames: int, fps: float, aspect: float) -> tuple[float, CameraTrack]:
    """Draw an enlargement and a track whose window has the label `kind` and whose view stays inside the frame."""
    while True:
        zoom = float(rng.uniform(1.0, MAX_ZOOM)) if kind in ("moved", "shaking") or rng.random() < 0.6 else 1.0
        track = draw_track(rng, kind, rng.uniform(0, 0.4) + np.arange(frames) / fps)
        if kind == "covered" and track.cover.max() >= 1 and rng.random() < PARTIAL_COVERS:
            # A cover of two thirds is the hardest to tell from a wall, so there are many.
            track.cover *= rng.uniform(0.61, 0.95 if rng.random() < 0.5 else 0.75)
        track.x -= (track.x.max() + track.x.min()) / 2
        track.y -= (track.y.max() + track.y.min()) / 2
        room = zoom - 1 + 0.02  # in frame widths; a reflection of 1 % at the edge cannot be seen
        if max(np.ptp(track.x), np.ptp(track.y) * aspect) <= room and window_label(track, fps=fps) == kind:
            return zoom, track
