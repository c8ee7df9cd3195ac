"""Disturbances of a camera: signals over time, and the rendering of their effect on frames."""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np
import numpy.typing as npt

from engines.arrays import F32, F64, U8
from training.builtin.camera_events.covers import LensCover
from training.builtin.camera_events.surfaces import Rng, fractal_noise

MIN_COVER = 0.01
"""Covers of a smaller share of the frame are not drawn."""


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
        track.blur = np.exp(rng.uniform(np.log(0.009), np.log(0.045))) * _presence(rng, times)
    elif kind == "noise":
        track.noise = np.exp(rng.uniform(np.log(3.4), np.log(45))) * _presence(rng, times)
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
    if rng.random() < 0.12:  # a lamp among others, a cloud's edge, a recorder's next key frame
        track.gain += rng.uniform(0.02, 0.09) * rng.choice([-1, 1]) * (times >= rng.uniform(0, 1.8))
    if rng.random() < 0.3:  # something bright or dark enters or leaves the frame
        size = rng.uniform(0.1, 0.4) * rng.choice([-1, 1], p=[0.65, 0.35])
        start, duration = float(rng.uniform(-0.5, 1.4)), float(rng.uniform(0.7, 2))
        adapted = size * _ramp(times, start, duration)
        if rng.random() < 0.4:
            adapted -= size * _ramp(times, start + duration, duration)
        if rng.random() < 0.4:  # many cameras set their exposure in steps
            step = rng.uniform(0.04, 0.12)
            adapted = np.round(adapted / step) * step
        track.exposure += adapted
    if rng.random() < 0.5:
        track.noise += rng.exponential(0.8)
    np.clip(track.noise, 0, 2.3, out=track.noise)


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
    """Draw the logarithm of brightness of a light that is switched, flickers or turns, or of lightning."""
    size = rng.choice([-1.0, 1.0]) * np.exp(rng.uniform(np.log(0.3), np.log(1.7)))
    kind = rng.choice(["switch", "flicker", "strobe", "bursts", "beacon"], p=[0.4, 0.22, 0.13, 0.13, 0.12])
    if kind == "switch":
        return np.asarray(size * _ramp(times, float(rng.uniform(0.2, 1.7)), float(rng.choice([0.01, 0.1, 0.25]))))
    if kind == "flicker":
        return np.asarray(0.5 * size * np.sign(np.sin(2 * np.pi * (rng.uniform(0.7, 5) * times + rng.random()))))
    if kind == "strobe":
        return np.asarray(size * rng.uniform(0, 1, len(times)) * (rng.random(len(times)) < 0.7))
    if kind == "beacon":  # a lamp that turns
        phase = 2 * np.pi * (rng.uniform(0.7, 3) * times + rng.random())
        return np.asarray(abs(size) * np.clip(np.sin(phase), 0, None) ** rng.uniform(1, 6))
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
    _cover: LensCover | None = field(default=None, init=False)
    _light: F32 | None = field(default=None, init=False)
    _grain: str = field(init=False)
    _normal: F32 | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        kinds = ["white", "coarse", "colour", "rows", "sparks", "snow", "mixed"]
        self._grain = str(self.rng.choice(kinds, p=[0.25, 0.2, 0.12, 0.08, 0.1, 0.12, 0.13]))

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
        if np.array_equal(matrix, np.eye(2, 3)) and world.shape[:2] == (height, width):
            return world  # an undisturbed view of a frame; the copy would be exact, but is a seventh of all work
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
            if self._light is None:
                self._light = self._draw_light()
            gain = np.exp(np.float32(track.gain[i]) * self._light + np.float32(track.exposure[i]))
            frame = np.asarray(cv2.multiply(frame, gain, dtype=cv2.CV_8U), np.uint8)
        if track.cover[i] > MIN_COVER:
            if self._cover is None:
                self._cover = LensCover.drawn(self.rng, self.height, self.width)
            frame = self._cover.over(frame, float(track.cover[i]), number=i, exposure=float(track.exposure[i]))
        if track.blur[i] > 2e-4:
            frame = _defocus(frame, float(track.blur[i] * self.width))
        if track.noise[i] > 0.1:
            noise = self._noise(float(track.noise[i]))
            rgb = cv2.merge([noise] * 3) if noise.shape[2] == 1 else noise
            frame = np.asarray(cv2.add(frame, rgb, dtype=cv2.CV_8U), np.uint8)
        return frame

    def _draw_light(self) -> F32:
        """Draw how strongly a change of the light reaches each pixel and channel, (height, width, 3) in 0..1."""
        rng, shape = self.rng, (self.height, self.width, 3)
        light = np.ones((-(-self.height // 4), -(-self.width // 4), 3), np.float32)
        if rng.random() < 0.6:
            light -= rng.uniform(0.1, 0.7) * fractal_noise(rng, *light.shape[:2], roughness=0.3)
        if rng.random() < 0.25:  # a coloured lamp: a traffic light, a screen, a beacon
            colour = rng.uniform(0, 1, 3)
            light *= np.float32(colour / colour.max())
        return np.asarray(cv2.resize(light, shape[1::-1]), np.float32)

    def cover_map(self, share: float, rows: int, columns: int) -> F32:
        """Return how much of each part of a (rows, columns) grid a cover of `share` hides in the disturbed frames."""
        if self._cover is None or share <= MIN_COVER:
            return np.zeros((rows, columns), np.float32)
        opacity = self._cover.opacity(share)
        return np.asarray(cv2.resize(opacity, (columns, rows), interpolation=cv2.INTER_AREA), np.float32)

    def _white(self, channels: int) -> F32:
        """Return normal noise (height, width, channels): a part of one drawing, from a random place on.

        Drawing as many numbers anew for each frame costs as much as all other steps together.
        """
        count = self.height * self.width * channels
        if self._normal is None or self._normal.size < 2 * count:
            self._normal = self.rng.standard_normal(2 * count, dtype=np.float32)
        start = int(self.rng.integers(self._normal.size - count))
        return self._normal[start : start + count].reshape(self.height, self.width, channels)

    def _noise(self, sigma: float) -> F32:
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
            return self._white(3) * np.float32(min(fine * 1.4, 120.0))
        if grain == "rows":
            rows = rng.standard_normal((height, 1, 1), dtype=np.float32) * min(fine, 60.0) * 0.8
            return rows + self._white(1) * np.float32(fine * 0.5)
        if grain == "sparks":
            hit = rng.random((height, width, 1)) < min(fine / 300, 0.4)
            return np.where(hit, rng.choice([-220.0, 220.0], hit.shape), 0).astype(np.float32)
        return self._white(1) * np.float32(fine)


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
