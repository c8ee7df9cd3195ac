"""Disturbances of a camera: signals over time, and the rendering of their effect on frames."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from engines.arrays import F64, U8
from training.builtin.camera_events.scenes import Rng, fractal_noise, repeated_pattern, texture


@dataclass(slots=True, kw_only=True)
class CameraTrack:
    """The camera's true state at each of F frames. Lengths are in frame widths.

    x, y: the direction; angle: radians; zoom: factor; gain: natural logarithm of brightness; exposure: the slow change
    of that logarithm by the camera's own control; cover: covered share of the frame; blur: sigma of defocus; noise:
    standard deviation in grey levels, at the model's size; shake: whether the camera shakes; view: the number of
    changes to another scene, because the camera was turned or the recording was cut.
    """

    x: F64
    y: F64
    angle: F64
    zoom: F64
    gain: F64
    exposure: F64
    cover: F64
    blur: F64
    noise: F64
    shake: F64
    view: F64

    @classmethod
    def still(cls, frames: int) -> CameraTrack:
        """Return the track of an undisturbed camera."""
        zeros = {name: np.zeros(frames) for name in cls.__slots__ if name != "zoom"}
        return cls(zoom=np.ones(frames), **zeros)

    def select(self, indices: npt.NDArray[np.int64]) -> CameraTrack:
        """Return the states at `indices` only."""
        return CameraTrack(**{name: getattr(self, name)[indices] for name in self.__slots__})


def _ramp(times: F64, start: float, duration: float) -> F64:
    """Return 0 before `start`, 1 after start + duration, and a smooth transition between."""
    u = np.clip((times - start) / max(duration, 1e-3), 0, 1)
    return np.asarray(u * u * (3 - 2 * u))


def _presence(rng: Rng, times: F64) -> F64:
    """Draw when a state is present: always (60 %), from some time on, or until some time."""
    if rng.random() < 0.6:
        return np.ones_like(times)
    ramp = _ramp(times, float(rng.uniform(0.1, 1.6)), float(rng.choice([0.05, rng.uniform(0.1, 0.8)])))
    return ramp if rng.random() < 0.7 else 1 - ramp


def draw_track(rng: Rng, kind: str, times: F64) -> CameraTrack:
    """Draw the track of a clip in which `kind`, a label, happens. `times` in seconds."""
    track = CameraTrack.still(len(times))
    _add_normal_changes(rng, track, times)
    if kind == "covered":
        _cover(rng, track, times)
    elif kind == "defocused":
        track.blur = np.exp(rng.uniform(np.log(0.009), np.log(0.07))) * _presence(rng, times)
    elif kind == "noise":
        track.noise = np.exp(rng.uniform(np.log(3.8), np.log(45))) * _presence(rng, times)
    elif kind == "moved":
        _move(rng, track, times)
    elif kind == "shaking":
        _shake(rng, track, times)
    elif kind == "flashing":
        track.gain = track.gain + _flash(rng, times)
    return track


def _cover(rng: Rng, track: CameraTrack, times: F64) -> None:
    """Add a cover over a part of the frame, or over all of it. A camera that sees little light amplifies its noise."""
    share = 1.0 if rng.random() < 0.5 else rng.uniform(0.64, 1.0)
    presence = _presence(rng, times)
    track.cover = share * presence
    if rng.random() < 0.5:
        track.noise = np.maximum(track.noise, presence * rng.uniform(0.3, 7))
    if rng.random() < 0.4:  # the automatic exposure adapts to the cover
        track.exposure += rng.uniform(-0.5, 0.9) * _ramp(times, float(rng.uniform(-1, 1.2)), float(rng.uniform(0.3, 2)))


def _add_normal_changes(rng: Rng, track: CameraTrack, times: F64) -> None:
    """Add changes that are still normal: wind, mains hum, automatic exposure, a sensor's ordinary noise."""
    if rng.random() < 0.3:
        size = rng.uniform(0.0003, 0.0025)
        phase = 2 * np.pi * times[:, None] * rng.uniform(0.5, 8, 3) + rng.uniform(0, 6, 3)
        track.x += size * np.sin(phase).mean(axis=1)
        track.y += size * np.cos(phase * 1.1).mean(axis=1)
    if rng.random() < 0.3:
        track.gain += rng.uniform(-0.2, 0.2) * (times - times.mean())
    if rng.random() < 0.15:
        track.gain += rng.uniform(0.005, 0.025) * np.sin(2 * np.pi * rng.uniform(0.5, 5) * times)
    if rng.random() < 0.3:  # something bright or dark enters or leaves the frame
        size = rng.uniform(0.1, 0.4) * rng.choice([-1, 1], p=[0.65, 0.35])
        start, duration = float(rng.uniform(-0.5, 1.4)), float(rng.uniform(0.7, 2))
        track.exposure += size * _ramp(times, start, duration)
        if rng.random() < 0.4:
            track.exposure -= size * _ramp(times, start + duration, duration)
    if rng.random() < 0.5:
        track.noise += rng.exponential(0.8)
    np.clip(track.noise, 0, 2.5, out=track.noise)


def _move(rng: Rng, track: CameraTrack, times: F64) -> None:
    """Add a pan, a tilt, a zoom, a rotation, a bump with or without swinging, or a knock to another view."""
    direction = rng.uniform(0, 2 * np.pi) if rng.random() < 0.5 else rng.integers(4) * np.pi / 2
    size = float(np.exp(rng.uniform(np.log(0.06), np.log(0.9))))
    kind = rng.choice(["pan", "steady", "bump", "zoom", "other"], p=[0.27, 0.17, 0.25, 0.07, 0.24])
    start = float(rng.uniform(-0.2, 1.5))
    if kind == "steady":  # during the whole clip, at constant speed
        way = times / 2 * max(size, 0.1) * rng.choice([1.0, 2.0])
    elif kind == "bump":
        settled = np.clip(times - start, 0, None)
        ring = np.exp(-settled * rng.uniform(3, 12)) * np.cos(2 * np.pi * rng.uniform(1.5, 6) * settled)
        swing_out = rng.uniform(0, 1) if rng.random() < 0.6 else 0.0  # 0: it stays where it was knocked to
        way = min(size, 0.4) * (times >= start) * (1 - swing_out * ring)
    elif kind == "other":
        track.view = (times >= start).astype(np.float64)
        if rng.random() < 0.35:  # a recording with several cuts
            track.view += times >= start + rng.uniform(0.2, 1.2)
        way = 0.05 * _ramp(times, start - 0.15, 0.3)
    else:
        way = size * _ramp(times, start, float(rng.uniform(0.15, 2.0)))
    if kind == "zoom":
        track.zoom = np.exp(rng.choice([-0.7, 1]) * min(size, 0.6) * 1.2 * way / size)
    else:
        track.x += way * np.cos(direction)
        track.y += way * np.sin(direction)
    if rng.random() < 0.3:
        track.angle = rng.uniform(-0.8, 0.8) * way


def _shake(rng: Rng, track: CameraTrack, times: F64) -> None:
    """Add swinging with one main frequency (a pole), random swinging (a hand), or the sway of a walk or a vehicle."""
    size = np.exp(rng.uniform(np.log(0.008), np.log(0.08)))
    kind = rng.choice(["pole", "hand", "walk"], p=[0.45, 0.4, 0.15])
    if kind == "walk":
        size = max(size, 0.02)
        hz, weight = rng.uniform(0.8, 2.5, (3, 2)), np.full((3, 1), 0.5)  # a slower swing is a pan
    elif kind == "pole":
        hz = rng.uniform(1.5, 11, (3, 2)) * [[1, 1]]
        weight = rng.dirichlet([0.7, 0.7, 0.7])[:, None]
    else:
        hz, weight = np.linspace(0.8, 9, 8)[:, None] + rng.uniform(0, 0.5, (8, 2)), np.full((8, 1), 0.3)
    phase = 2 * np.pi * times[:, None, None] * hz + rng.uniform(0, 6.3, hz.shape)
    swing = (np.sin(phase) * weight).sum(axis=1)
    swing *= size / (swing.std(axis=0).max() + 1e-6)
    presence = _presence(rng, times)
    axis = rng.choice([(1.0, 1.0), (1.0, 0.2), (0.2, 1.0)])
    track.x += swing[:, 0] * presence * axis[0]
    track.y += swing[:, 1] * presence * axis[1]
    if rng.random() < 0.4:
        track.angle = swing[:, 0] * presence * rng.uniform(-0.8, 0.8)
    track.shake = presence


def _flash(rng: Rng, times: F64) -> F64:
    """Draw the logarithm of brightness of a switched light, a flickering light, or lightning."""
    size = rng.choice([-1.0, 1.0]) * np.exp(rng.uniform(np.log(0.3), np.log(1.7)))
    kind = rng.choice(["switch", "flicker", "strobe", "bursts"], p=[0.45, 0.25, 0.15, 0.15])
    if kind == "switch":
        return np.asarray(size * _ramp(times, float(rng.uniform(0.2, 1.7)), float(rng.choice([0.01, 0.1, 0.25]))))
    if kind == "flicker":
        return np.asarray(0.5 * size * np.sign(np.sin(2 * np.pi * (rng.uniform(0.7, 5) * times + rng.random()))))
    if kind == "strobe":
        return np.asarray(size * rng.uniform(0, 1, len(times)) * (rng.random(len(times)) < 0.7))
    level = np.zeros_like(times)
    for start in rng.uniform(0, 2, rng.integers(1, 6)):
        level += ((times >= start) & (times < start + rng.uniform(0.05, 0.3))) * abs(size)
    return np.asarray(np.minimum(level, 1.8) * np.sign(size))


@dataclass(slots=True, kw_only=True)
class TrackRenderer:
    """Apply a track to frames of (height, width). The cover, the light and the kind of noise stay the same."""

    rng: Rng
    height: int
    width: int
    model_width: int
    _cover: U8 = field(init=False)
    _edge: npt.NDArray[np.float32] = field(init=False)
    _softness: float = field(init=False)
    _light: npt.NDArray[np.float32] = field(init=False)
    _grain: str = field(init=False)
    _drift: float = field(init=False)
    _brightening: float = field(init=False)

    def __post_init__(self) -> None:
        rng, height, width = self.rng, self.height, self.width
        self._cover = _draw_cover(rng, height, width)
        self._brightening = float(rng.uniform(-0.3, 0.3)) if rng.random() < 0.4 else 0.0
        y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j].astype(np.float32)
        angle = rng.uniform(0, 2 * np.pi)
        front = (
            x * np.cos(angle)
            + y * np.sin(angle)
            + rng.uniform(0, 0.6) * (fractal_noise(rng, height, width, roughness=0.3)[..., 0] - 0.5)
        )
        # Ranks, so that `edge < c` covers the share c of the frame, whatever the shape of `front`.
        ranks = np.argsort(np.argsort(front[::4, ::4], axis=None)).reshape(front[::4, ::4].shape) / front[::4, ::4].size
        self._edge = cv2.resize(ranks.astype(np.float32), (width, height))
        self._softness = float(rng.uniform(0.03, 0.12))
        light = fractal_noise(rng, height, width, roughness=0.3)
        self._light = 1 - (rng.uniform(0.1, 0.7) * light if rng.random() < 0.6 else np.zeros_like(light))
        self._grain = str(
            rng.choice(
                ["white", "coarse", "colour", "rows", "sparks", "snow", "mixed"],
                p=[0.25, 0.2, 0.12, 0.08, 0.1, 0.12, 0.13],
            )
        )
        # Far less than a shaking camera: else a moving texture would be a sign of a cover.
        self._drift = float(rng.uniform(0, 0.012) * width) if rng.random() < 0.4 else 0.0

    def view(self, world: U8, track: CameraTrack, i: int, velocity: float) -> U8:
        """Render the camera's view (height, width, 3) of the larger image `world`. `velocity` in widths per frame."""
        height, width = self.height, self.width
        margin_y, margin_x = (world.shape[0] - height) / 2, (world.shape[1] - width) / 2
        cos, sin = np.cos(track.angle[i]) / track.zoom[i], np.sin(track.angle[i]) / track.zoom[i]
        cx = margin_x + width / 2 + track.x[i] * width
        cy = margin_y + height / 2 + track.y[i] * width
        matrix = np.array(
            [
                [cos, -sin, cx - cos * width / 2 + sin * height / 2],
                [sin, cos, cy - sin * width / 2 - cos * height / 2],
            ]
        )
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        frame = cv2.warpAffine(world, matrix, (width, height), flags=flags, borderMode=cv2.BORDER_REFLECT)
        streak = int(velocity * width)
        if streak >= 2 and i > 0:
            kernel = np.zeros((2 * streak + 1, 2 * streak + 1), np.float32)
            way = np.array([track.x[i] - track.x[i - 1], track.y[i] - track.y[i - 1]])
            way = way / (np.hypot(*way) + 1e-9) * streak / 2
            start, stop = (tuple(round(float(streak + s * v)) for v in way) for s in (-1, 1))
            cv2.line(kernel, start, stop, 1.0, 1)
            frame = cv2.filter2D(frame, -1, kernel / kernel.sum(), borderType=cv2.BORDER_REFLECT)
        return np.asarray(frame, np.uint8)

    def disturb(self, frame: U8, track: CameraTrack, i: int) -> U8:
        """Apply light, cover, defocus and noise, in this order, as in a camera."""
        if abs(track.gain[i]) > 1e-3 or abs(track.exposure[i]) > 1e-3:
            gain = np.exp(np.float32(track.gain[i]) * self._light + np.float32(track.exposure[i]))
            frame = np.clip(frame * gain, 0, 255).astype(np.uint8)
        if track.cover[i] > 0.01:
            # A share of 1 leaves no pixel of the scene: the edge is soft over `_softness` of the ranks.
            reach = track.cover[i] * (1 + 1.08 * self._softness)
            alpha = np.clip((np.float32(reach) - self._edge) / self._softness, 0, 1)[..., None]
            gain = np.exp(self._brightening * np.sin(i / 8) + track.exposure[i])
            moved = np.roll(self._cover, int(self._drift * np.sin(i / 3)), axis=1) * np.float32(gain)
            frame = np.clip(frame + (moved - frame) * alpha, 0, 255).astype(np.uint8)
        if track.blur[i] > 2e-4:
            frame = _defocus(frame, float(track.blur[i] * self.width))
        if track.noise[i] > 0.1:
            frame = np.clip(frame + self._noise(float(track.noise[i])), 0, 255).astype(np.uint8)
        return frame

    def _noise(self, sigma: float) -> npt.NDArray[np.float32]:
        """Draw noise (height, width, 3 or 1) whose deviation is about `sigma` after scaling to the model's width."""
        rng, height, width = self.rng, self.height, self.width
        # Averaging k x k pixels divides white noise by k, so the camera's noise is k times stronger, up to a limit.
        fine = min(sigma * max(width / self.model_width, 1.0), 110.0)
        grain = self._grain if self._grain != "mixed" else str(rng.choice(["white", "coarse", "rows"]))
        if grain == "snow":  # a weak analogue signal: strong noise in some bands of the frame, little in others
            band = 1 + 0.6 * np.sin(np.linspace(0, rng.uniform(2, 14), height, dtype=np.float32) + rng.uniform(0, 6))
            flakes = rng.random((height, width, 1), dtype=np.float32) - 0.5
            return np.asarray(flakes * band[:, None, None] * min(fine * 3.2, 255.0), np.float32)
        if grain == "coarse":
            k = rng.uniform(1.5, 3)
            small = rng.standard_normal((int(height / k), int(width / k)), dtype=np.float32)
            return np.asarray(cv2.resize(small, (width, height))[..., None] * min(fine * 0.9, 90.0))
        if grain == "colour":
            return rng.standard_normal((height, width, 3), dtype=np.float32) * min(fine * 1.4, 120.0)
        if grain == "rows":
            rows = rng.standard_normal((height, 1, 1), dtype=np.float32) * min(fine, 60.0) * 0.8
            return rows + rng.standard_normal((height, width, 1), dtype=np.float32) * fine * 0.5
        if grain == "sparks":
            hit = rng.random((height, width, 1)) < min(fine / 300, 0.4)
            return np.where(hit, rng.choice([-220.0, 220.0], hit.shape), 0).astype(np.float32)
        return rng.standard_normal((height, width, 1), dtype=np.float32) * fine


def _draw_cover(rng: Rng, height: int, width: int) -> U8:
    """Draw a cover on the lens: a cap, paper, plastic, cloth, a print, a hand or a smear; (height, width, 3)."""
    cover: npt.NDArray[Any]
    kinds = ["black", "flat", "plain", "cloth", "pattern", "hand", "smear"]
    kind = rng.choice(kinds, p=[0.17, 0.17, 0.1, 0.22, 0.16, 0.1, 0.08])
    if kind == "black":
        cover = np.full((height, width, 3), rng.uniform(0, 25), np.float32)
    elif kind == "flat":  # paper, tape, plastic: white, grey or coloured
        tone = rng.uniform(30, 250) * (1 + rng.choice([0.02, 0.3]) * rng.normal(0, 0.5, 3))
        cover = np.full((height, width, 3), np.clip(tone, 0, 255), np.float32)
    elif kind == "plain":
        cover = np.full((height, width, 3), rng.uniform(10, 230, 3), np.float32)
        cover = cover * (0.85 + 0.3 * fractal_noise(rng, height, width, roughness=0.2))
    elif kind == "hand":
        cover = np.array([215, 130, 105]) * rng.uniform(0.15, 1.0) * fractal_noise(rng, height, width, roughness=0.3)
    else:
        cover = np.clip((repeated_pattern if kind == "pattern" else texture)(rng, height, width), 0, 255)
        if kind == "smear":
            cover = cover * 0.3 + rng.uniform(60, 230, 3) * 0.7
        # A cover on the lens is far out of focus. Cloth that hangs before the camera may be sharp.
        blurs = [0.0015, 0.004, 0.012, 0.03] if kind == "pattern" else [0.004, 0.012, 0.03, 0.08]
        cover = cv2.GaussianBlur(cover, (0, 0), float(rng.choice(blurs)) * width)
    if rng.random() < 0.6:  # light that falls on it from one side, or passes at its edge
        y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j].astype(np.float32)
        angle = rng.uniform(0, 2 * np.pi)
        side = (x * np.cos(angle) + y * np.sin(angle))[..., None]
        cover = cover * (1 + rng.uniform(0.1, 0.7) * side)
        if rng.random() < 0.3:
            cover = cover + rng.uniform(5, 90) * np.exp((side - 1.2) * rng.uniform(3, 9))
    return np.asarray(np.clip(cover, 0, 255), np.uint8)


def _defocus(frame: U8, sigma: float) -> U8:
    """Blur with a disc, like a lens; with a Gaussian where sigma is small and both look the same."""
    if sigma < 2.5:
        return np.asarray(cv2.GaussianBlur(frame, (0, 0), sigma), np.uint8)
    shrink = 1 if sigma < 6 else 2
    radius = 2 * sigma / shrink  # a disc of radius r has the variance of a Gaussian of r / 2
    size = 2 * int(np.ceil(radius)) + 1
    y, x = np.mgrid[:size, :size] - size // 2
    disc = np.clip(radius + 0.5 - np.hypot(x, y), 0, 1).astype(np.float32)
    height, width = frame.shape[:2]
    small = cv2.resize(frame, (width // shrink, height // shrink), interpolation=cv2.INTER_AREA)
    small = cv2.filter2D(small, -1, disc / disc.sum(), borderType=cv2.BORDER_REFLECT)
    return np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)
