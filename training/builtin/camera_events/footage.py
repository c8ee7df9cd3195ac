"""Render one synthetic clip: a scene, moving sprites, a disturbance of the camera, a codec, and the exact labels."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass

import av
import cv2
import numpy as np
import numpy.typing as npt
from av.video.reformatter import VideoReformatter

from engines.arrays import U8
from training.builtin.camera_events.disturbances import CameraTrack, TrackRenderer, draw_track
from training.builtin.camera_events.scenes import scene
from training.builtin.camera_events.sprites import draw_rain, draw_sprites, draw_swaying_region
from training.builtin.camera_events.surfaces import Rng

# (height, width) of cameras. Small ones are more frequent: they cost less, and a small model sees little more.
_SIZES = (
    (160, 284),
    (160, 214),
    (240, 320),
    (288, 352),
    (270, 480),
    (360, 640),
    (480, 640),
    (432, 768),
    (540, 960),
    (720, 1280),
)
_SIZE_WEIGHTS = (0.16, 0.1, 0.13, 0.1, 0.13, 0.16, 0.07, 0.08, 0.05, 0.02)
MAX_NORMAL_NOISE = 2.4
"""Standard deviation of noise, in grey levels at the model's size, above which a frame is not `normal`."""
_RATES = (5.0, 8.0, 10.0, 12.5, 15.0, 20.0, 24.0, 25.0, 30.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class FootageClip:
    """A rendered clip: `frames` (F, H, W, 3) uint8 RGB at the model's rate and size; `track`, the camera's states."""

    frames: U8
    track: CameraTrack


def make_clip(rng: Rng, kind: str, *, frames: int, fps: float, height: int, width: int) -> FootageClip:
    """Render a clip in which `kind`, one of LABELS, happens. It is sampled at `fps` like in the service."""
    h, w = _SIZES[int(rng.choice(len(_SIZES), p=_SIZE_WEIGHTS))]
    rate = float(rng.choice(_RATES))
    # Sampling takes the camera's nearest frame to each time of the grid; only these frames are rendered.
    nearest = np.rint((np.arange(frames) / fps + rng.uniform(0, 1 / rate)) * rate).astype(np.int64)
    if rng.random() < 0.06:  # a recorder that repeats frames
        nearest[rng.random(frames) < 0.25] -= 1
        nearest = np.maximum.accumulate(np.maximum(nearest, 0))
    unique, places = np.unique(nearest, return_inverse=True)
    times = unique / rate
    track = draw_track(rng, kind, times)
    images = _camera_frames(rng, track, times, h, w, width)
    # Coarse quantisation would remove weak noise, and the label would be wrong.
    decoded = through_codec(rng, images, rate, worst_crf=31 if track.noise.max() > MAX_NORMAL_NOISE else 41)
    reformat, small = VideoReformatter(), []
    for frame in decoded:
        scaled = reformat.reformat(frame, width=width, height=height, format="rgb24", interpolation="AREA")
        small.append(np.asarray(scaled.to_ndarray(), np.uint8))
    return FootageClip(frames=np.stack(small)[places], track=track.select(places))


def _camera_frames(
    rng: Rng, track: CameraTrack, times: npt.NDArray[np.float64], h: int, w: int, model_width: int
) -> list[U8]:
    """Render the camera's own frames, (h, w, 3) each, before any codec."""
    ch, cw = int(h * 1.3) // 2 * 2, int(w * 1.3) // 2 * 2
    worlds = [scene(rng, ch, cw) for _ in range(1 + int(track.view.max()))]
    sprites = draw_sprites(rng, h, w)
    swaying = [draw_swaying_region(rng, ch, cw) for _ in range(int(rng.choice([0, 1, 2], p=[0.75, 0.18, 0.07])))]
    drops = int(rng.integers(20, 250)) if rng.random() < 0.06 else 0
    grey = all(np.ptp(world[::8, ::8], axis=2).max() < 3 for world in worlds)
    renderer = TrackRenderer(rng=rng, height=h, width=w, model_width=model_width)
    overlay = _Overlay(rng, h, w)
    exposure = rng.uniform(0, 0.5)  # share of the frame interval in which the shutter is open
    slant = float(rng.normal(0, 0.3))
    change = _scene_change(rng, worlds[0]) if rng.random() < 0.15 else None
    images = []
    for i, time_s in enumerate(times):
        world = worlds[int(track.view[i])].copy()
        if change is not None and not track.view[i]:
            change(world, float(time_s))
        for region in swaying:
            region.draw(world, float(time_s))
        for sprite in sprites:
            sprite.draw(world, float(time_s))
        speed = float(np.hypot(track.x[i] - track.x[i - 1], track.y[i] - track.y[i - 1])) if i else 0.0
        image = renderer.view(world, track, i, min(speed * exposure, 0.06))
        if grey:
            image = np.repeat(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2)
        if drops:
            draw_rain(rng, image, drops=drops, slant=slant)
        images.append(overlay.draw(renderer.disturb(image, track, i), float(time_s)))
    return images


def _scene_change(rng: Rng, world: U8) -> Callable[[U8, float], None]:
    """Return a function that changes a part of the scene from some time on, as if an object were removed or placed."""
    h, w = world.shape[:2]
    rows, columns = (int(rng.uniform(0.08, 0.3) * size) for size in (h, w))
    (y, from_y), (x, from_x) = rng.integers(0, h - rows, 2), rng.integers(0, w - columns, 2)
    other = world[from_y : from_y + rows, from_x : from_x + columns].copy()
    change_s = float(rng.uniform(0.1, 1.8))

    def draw(world: U8, time_s: float) -> None:
        if time_s >= change_s:
            world[y : y + rows, x : x + columns] = other

    return draw


class _Overlay:
    """The text and bars that a recorder puts over every frame: clock, name, logo, black bars."""

    def __init__(self, rng: Rng, h: int, w: int) -> None:
        self.bars = (0, 0)
        if rng.random() < 0.15:
            share = rng.uniform(0.03, 0.16)
            self.bars = (int(share * h), 0) if rng.random() < 0.5 else (0, int(share * w))
        self.scale, self.start_s = h / 480 * rng.uniform(0.5, 1.4), float(rng.uniform(0, 86_400))
        tone = (255.0, 255.0, 255.0) if rng.random() < 0.8 else tuple(rng.uniform(0, 255, 3))
        self.tone = tuple(float(v) for v in tone)
        self.clock = (
            (int(rng.uniform(0.01, 0.6) * w), int(rng.choice([0.06, 0.95]) * h)) if rng.random() < 0.4 else None
        )
        self.name = (int(rng.uniform(0.01, 0.7) * w), int(rng.choice([0.06, 0.95]) * h)) if rng.random() < 0.3 else None
        self.text = "".join(rng.choice(list("CAM 0123456789-KITCHENDOR"), int(rng.integers(4, 12))))
        self.logo = rng.random() < 0.1
        self.logo_at = (int(rng.uniform(0.1, 0.9) * w), int(rng.choice([0.1, 0.88]) * h))

    def draw(self, image: U8, time_s: float) -> U8:
        """Draw the overlay at `time_s` over `image` (h, w, 3)."""
        image = np.ascontiguousarray(image)
        rows, columns = self.bars
        if rows:
            image[:rows] = image[-rows:] = 0
        if columns:
            image[:, :columns] = image[:, -columns:] = 0
        second = int(self.start_s + time_s)
        clock = f"{second // 3600:02d}:{second // 60 % 60:02d}:{second % 60:02d}"
        thick = 1 if self.scale < 0.8 else 2
        for place, text in ((self.clock, clock), (self.name, self.text)):
            if place:
                cv2.putText(image, text, place, cv2.FONT_HERSHEY_SIMPLEX, self.scale, (0, 0, 0), thick + 1)
                cv2.putText(image, text, place, cv2.FONT_HERSHEY_SIMPLEX, self.scale, self.tone, thick)
        if self.logo:
            x, y = self.logo_at
            size = max(int(0.05 * image.shape[0]), 3)
            cv2.rectangle(image, (x - 2 * size, y - size), (x + 2 * size, y + size), self.tone, -1)
        return image


def through_codec(
    rng: Rng, images: list[U8], rate: float, *, worst_crf: int, reduced: float = 0.12
) -> list[av.VideoFrame]:
    """Encode and decode the frames as a camera does: with H.264, MPEG-4 or MJPEG, or not at all.

    `reduced`: share of films that are reduced and enlarged again, like much web video.
    """
    kind = rng.choice(["h264", "mpeg4", "jpeg", "raw"], p=[0.62, 0.1, 0.2, 0.08])
    if rng.random() < reduced:
        h, w = images[0].shape[:2]
        shrink = rng.uniform(1.3, 2.2)
        small = [cv2.resize(p, (int(w / shrink), int(h / shrink)), interpolation=cv2.INTER_AREA) for p in images]
        images = [np.asarray(cv2.resize(p, (w, h), interpolation=cv2.INTER_CUBIC), np.uint8) for p in small]
    if kind == "jpeg":
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(15, 95))]
        packed = [cv2.imencode(".jpg", p, quality)[1] for p in images]
        images = [np.asarray(cv2.imdecode(p, cv2.IMREAD_COLOR), np.uint8) for p in packed]
    if kind in ("jpeg", "raw"):
        return [av.VideoFrame.from_ndarray(p, format="rgb24") for p in images]
    h, w = images[0].shape[:2]
    buffer = io.BytesIO()
    gop = str(int(rng.choice([5, 12, 30, 250])))
    options = {
        "preset": "ultrafast" if rng.random() < 0.5 else "veryfast",
        "crf": str(int(rng.integers(16, worst_crf))),
        "g": gop,
        "x264-params": "mbtree=0",  # with it, x264 gives slightly different pixels in some runs
    }
    if kind == "mpeg4":
        options = {"qmin": "3", "qmax": str(int(rng.integers(8, 31))), "g": gop}
    with av.open(buffer, "w", format="matroska") as out:
        stream = out.add_stream("libx264" if kind == "h264" else "mpeg4", rate=round(rate), options=options)
        stream.width, stream.height, stream.pix_fmt = w // 2 * 2, h // 2 * 2, "yuv420p"
        stream.codec_context.thread_count = 1
        if kind == "mpeg4":
            stream.bit_rate = int(h * w * rate * rng.uniform(0.03, 0.25))
        for image in images:
            frame = av.VideoFrame.from_ndarray(image[: h // 2 * 2, : w // 2 * 2], format="rgb24")
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    buffer.seek(0)
    with av.open(buffer, "r") as container:
        if rng.random() < 0.4:  # as the service decodes with `decode: fast`
            container.streams.video[0].codec_context.options = {"skip_loop_filter": "all"}
        return list(container.decode(video=0))


def jump_frames(fps: float) -> int:
    """Return the frames of 0.3 s, in which a sudden change of the light takes place."""
    return max(round(0.3 * fps), 1)


def window_label(track: CameraTrack, *, fps: float) -> str | None:
    """Return the label that a user would give to a window with this `track`; None where opinions may differ.

    A state (covered, defocused, noise, shaking) must last for more than half of the frames. A change (moved, flashing)
    must lie inside the window, not at its first or last frame. `normal` means neither. The window has at least
    `jump_frames` + 3 frames.
    """
    inner = slice(1, -1)
    # Rotation or zoom moves the frame's edge, half a width from its centre, by about a third of its own value.
    weights = (
        (track.x, 1.0),
        (track.y, 1.0),
        (track.angle, 0.3),
        (np.log(track.zoom), 0.3),
        (track.view, 1.0),
    )
    excursion = sum(weight * float(np.ptp(signal[inner])) for signal, weight in weights)
    lag = jump_frames(fps)
    jump = float(np.abs(track.gain[lag:] - track.gain[:-lag])[1:-1].max())
    shaken = float((track.shake > 0.5).mean())
    states = {
        "covered": (track.cover >= 0.6, track.cover.max() > 0.05),
        "defocused": (track.blur >= 0.008, track.blur.max() > 0.003),
        "noise": (track.noise >= 3.1, track.noise.max() > MAX_NORMAL_NOISE),
    }
    for label, (strong, is_present) in states.items():
        if strong.mean() >= 0.5:
            return label
        if is_present:
            return None
    if track.shake.max() > 0.05:
        return "shaking" if shaken >= 0.5 else None
    if excursion >= 0.05:
        return "moved"
    if jump >= 0.25:
        return "flashing"
    return "normal" if excursion <= 0.008 and jump < 0.12 and float(np.ptp(track.gain)) < 0.45 else None
