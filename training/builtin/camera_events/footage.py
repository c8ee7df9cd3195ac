"""One clip of made footage: scene, actors, what happens to the camera, codec, and the exact truth of it."""

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
from training.builtin.camera_events.disturbances import Painter, Track, plan
from training.builtin.camera_events.scenes import Rng, scene
from training.builtin.camera_events.sprites import actors, rain, sway

# (height, width) of cameras, small ones more often: they cost less, and a small model sees little more.
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
_RATES = (5.0, 8.0, 10.0, 12.5, 15.0, 20.0, 24.0, 25.0, 30.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class MadeClip:
    """frames: (F, H, W, 3) uint8 RGB at the model's rate and size; truth: the camera's state at each frame."""

    frames: U8
    truth: Track


def make_clip(rng: Rng, kind: str, *, frames: int, fps: float, height: int, width: int) -> MadeClip:
    """A clip in which `kind`, one of LABELS, happens; sampled at `fps` as a service would sample it."""
    h, w = _SIZES[int(rng.choice(len(_SIZES), p=_SIZE_WEIGHTS))]
    rate = float(rng.choice(_RATES))
    # Sampling takes the camera's nearest picture to each instant of the grid; only those are rendered.
    nearest = np.rint((np.arange(frames) / fps + rng.uniform(0, 1 / rate)) * rate).astype(np.int64)
    if rng.random() < 0.06:  # a recorder that repeats pictures
        nearest[rng.random(frames) < 0.25] -= 1
        nearest = np.maximum.accumulate(np.maximum(nearest, 0))
    unique, places = np.unique(nearest, return_inverse=True)
    times = unique / rate
    track = plan(rng, kind, times)
    pictures = _film(rng, track, times, h, w, width)
    # Coarse quantisation would remove weak noise, and with it what the label says.
    decoded = _through_codec(rng, pictures, rate, worst_crf=31 if track.noise.max() > 2.7 else 41)
    reformat, small = VideoReformatter(), []
    for frame in decoded:
        scaled = reformat.reformat(frame, width=width, height=height, format="rgb24", interpolation="AREA")
        small.append(np.asarray(scaled.to_ndarray(), np.uint8))
    return MadeClip(frames=np.stack(small)[places], truth=track.take(places))


def _film(rng: Rng, track: Track, times: npt.NDArray[np.float64], h: int, w: int, model_width: int) -> list[U8]:
    """The camera's own pictures, (h, w, 3) each, before any codec."""
    ch, cw = int(h * 1.3) // 2 * 2, int(w * 1.3) // 2 * 2
    worlds = [scene(rng, ch, cw) for _ in range(1 + int(track.view.max()))]
    cast = actors(rng, h, w)
    restless = [sway(rng, ch, cw) for _ in range(int(rng.choice([0, 1, 2], p=[0.75, 0.18, 0.07])))]
    drops = int(rng.integers(20, 250)) if rng.random() < 0.06 else 0
    grey = all(np.ptp(world[::8, ::8], axis=2).max() < 3 for world in worlds)
    painter = Painter(rng=rng, height=h, width=w, model_width=model_width)
    overlay = _overlay(rng, h, w)
    exposure = rng.uniform(0, 0.5)  # share of a frame's interval during which the shutter is open
    slant = float(rng.normal(0, 0.3))
    taken = _taken(rng, worlds[0]) if rng.random() < 0.15 else None
    pictures = []
    for i, time_s in enumerate(times):
        world = worlds[int(track.view[i])].copy()
        if taken is not None and not track.view[i]:
            taken(world, float(time_s))
        for region in restless:
            region.draw(world, float(time_s))
        for actor in cast:
            actor.draw(world, float(time_s))
        speed = float(np.hypot(track.x[i] - track.x[i - 1], track.y[i] - track.y[i - 1])) if i else 0.0
        seen = painter.view(world, track, i, min(speed * exposure, 0.06))
        if grey:
            seen = np.repeat(cv2.cvtColor(seen, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2)
        if drops:
            rain(rng, seen, drops=drops, slant=slant)
        pictures.append(overlay(painter.paint(seen, track, i), float(time_s)))
    return pictures


def _taken(rng: Rng, world: U8) -> Callable[[U8, float], None]:
    """A thing that is taken away, or put there: a part of the scene that is another from one moment on."""
    h, w = world.shape[:2]
    rows, columns = (int(rng.uniform(0.08, 0.3) * size) for size in (h, w))
    (y, from_y), (x, from_x) = rng.integers(0, h - rows, 2), rng.integers(0, w - columns, 2)
    other = world[from_y : from_y + rows, from_x : from_x + columns].copy()
    moment_s = float(rng.uniform(0.1, 1.8))

    def draw(world: U8, time_s: float) -> None:
        if time_s >= moment_s:
            world[y : y + rows, x : x + columns] = other

    return draw


class _overlay:  # noqa: N801 - called like the function that it stands for
    """What a recorder writes over the picture, whatever the camera does: clock, name, logo, black bars."""

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

    def __call__(self, picture: U8, time_s: float) -> U8:
        picture = np.ascontiguousarray(picture)
        rows, columns = self.bars
        if rows:
            picture[:rows] = picture[-rows:] = 0
        if columns:
            picture[:, :columns] = picture[:, -columns:] = 0
        second = int(self.start_s + time_s)
        clock = f"{second // 3600:02d}:{second // 60 % 60:02d}:{second % 60:02d}"
        thick = 1 if self.scale < 0.8 else 2
        for place, text in ((self.clock, clock), (self.name, self.text)):
            if place:
                cv2.putText(picture, text, place, cv2.FONT_HERSHEY_SIMPLEX, self.scale, (0, 0, 0), thick + 1)
                cv2.putText(picture, text, place, cv2.FONT_HERSHEY_SIMPLEX, self.scale, self.tone, thick)
        if self.logo:
            x, y = self.logo_at
            size = max(int(0.05 * picture.shape[0]), 3)
            cv2.rectangle(picture, (x - 2 * size, y - size), (x + 2 * size, y + size), self.tone, -1)
        return picture


def _through_codec(rng: Rng, pictures: list[U8], rate: float, *, worst_crf: int) -> list[av.VideoFrame]:
    """Pictures as they come out of a camera: H.264, MPEG-4, MJPEG, or untouched."""
    kind = rng.choice(["h264", "mpeg4", "jpeg", "raw"], p=[0.62, 0.1, 0.2, 0.08])
    if rng.random() < 0.12:  # filmed, shrunk, and blown up again: much web video
        h, w = pictures[0].shape[:2]
        shrink = rng.uniform(1.3, 2.2)
        small = [cv2.resize(p, (int(w / shrink), int(h / shrink)), interpolation=cv2.INTER_AREA) for p in pictures]
        pictures = [np.asarray(cv2.resize(p, (w, h), interpolation=cv2.INTER_CUBIC), np.uint8) for p in small]
    if kind == "jpeg":
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(15, 95))]
        packed = [cv2.imencode(".jpg", p, quality)[1] for p in pictures]
        pictures = [np.asarray(cv2.imdecode(p, cv2.IMREAD_COLOR), np.uint8) for p in packed]
    if kind in ("jpeg", "raw"):
        return [av.VideoFrame.from_ndarray(p, format="rgb24") for p in pictures]
    h, w = pictures[0].shape[:2]
    buffer = io.BytesIO()
    gop = str(int(rng.choice([5, 12, 30, 250])))
    options = {
        "preset": "ultrafast" if rng.random() < 0.5 else "veryfast",
        "crf": str(int(rng.integers(16, worst_crf))),
        "g": gop,
    }
    if kind == "mpeg4":
        options = {"qmin": "3", "qmax": str(int(rng.integers(8, 31))), "g": gop}
    with av.open(buffer, "w", format="matroska") as out:
        stream = out.add_stream("libx264" if kind == "h264" else "mpeg4", rate=round(rate), options=options)
        stream.width, stream.height, stream.pix_fmt = w // 2 * 2, h // 2 * 2, "yuv420p"
        stream.codec_context.thread_count = 1
        if kind == "mpeg4":
            stream.bit_rate = int(h * w * rate * rng.uniform(0.03, 0.25))
        for picture in pictures:
            frame = av.VideoFrame.from_ndarray(picture[: h // 2 * 2, : w // 2 * 2], format="rgb24")
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    buffer.seek(0)
    with av.open(buffer, "r") as film:
        return list(film.decode(video=0))


def window_label(truth: Track, *, fps: float) -> str | None:
    """What a user would call a window with this `truth`; None where opinions may differ.

    State (covered, defocused, noise, shaking): more than half of the frames. Change (moved, flashing): it lies
    inside the window, not at its very edge. normal: nothing of either.
    """
    inner = slice(1, -1)
    # Turning or zooming moves the picture's edge, half a width from its centre, by about a third of this.
    weights = (
        (truth.x, 1.0),
        (truth.y, 1.0),
        (truth.angle, 0.3),
        (np.log(truth.zoom), 0.3),
        (truth.view, 1.0),
    )
    excursion = sum(weight * float(np.ptp(signal[inner])) for signal, weight in weights)
    lag = max(round(0.3 * fps), 1)
    jump = float(np.abs(truth.gain[lag:] - truth.gain[:-lag])[1:-1].max())
    shaken = float((truth.shake > 0.5).mean())
    states = {
        "covered": (truth.cover >= 0.6, truth.cover.max() > 0.05),
        "defocused": (truth.blur >= 0.008, truth.blur.max() > 0.003),
        "noise": (truth.noise >= 4.0, truth.noise.max() > 2.7),
    }
    for label, (strong, any_of_it) in states.items():
        if strong.mean() >= 0.5:
            return label
        if any_of_it:
            return None
    if truth.shake.max() > 0.05:
        return "shaking" if shaken >= 0.5 else None
    if excursion >= 0.05:
        return "moved"
    if jump >= 0.25:
        return "flashing"
    return "normal" if excursion <= 0.008 and jump < 0.12 and float(np.ptp(truth.gain)) < 0.45 else None
