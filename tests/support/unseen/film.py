"""Work on film: blur, light, noise, motion, and rules for the windows that count."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import cv2
import numpy as np

from engines.arrays import F32, F64, U8

Rng = np.random.Generator

STRENGTHS: Final = ("weak", "medium", "strong")
# How strong a form is, by strength. All groups use the same.
TURNS: Final = dict(zip(STRENGTHS, (0.08, 0.15, 0.25), strict=True))
"""How far the camera turns, in widths of the picture."""
SWINGS: Final = dict(zip(STRENGTHS, (0.01, 0.018, 0.03), strict=True))
"""The RMS of a shaking camera, in widths of the picture."""
RADII: Final = dict(zip(STRENGTHS, (0.0225, 0.035, 0.06), strict=True))
"""The radius of the blur's disc, in widths of the picture."""
FACTORS: Final = dict(zip(STRENGTHS, (2.5, 4.0, 8.0), strict=True))
"""The factor by which light changes."""
MARGIN_S: Final = 0.2
STEP_S: Final = 0.005


@dataclass(frozen=True, slots=True, kw_only=True)
class Disturbed:
    """A disturbed film with its times. `counts(start_s, end_s)`: whether a user would name the event in this window."""

    frames: U8
    times_s: F64
    counts: Callable[[float, float], bool]


@dataclass(frozen=True, slots=True)
class Material:
    """A cover's material. `draw(rng, h, w)` returns (h, w, 3) in grey levels.

    `clear`: the share of the scene's light that it lets through, scattered. `edge`: a piece may slide in with its edge;
    lumps and spray have a ragged edge and grow. `source`: the name under which the figures count it, where several
    materials share one.
    """

    draw: Callable[[Rng, int, int], F32]
    clear: float = 0.0
    edge: Literal["piece", "lumps", "spray"] = "piece"
    source: str = ""


Disturb = Callable[[Rng, U8, F64, str, str], Disturbed]
"""Takes the generator, the film, its times, the form and one of `STRENGTHS`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Materials and forms that were fixed at the same time.

    `name`: its key in `groups.GROUPS`, or `photographed.NAME`. `forms`: by label, the function and its forms.
    `covers_per_film`: excerpts with a cover of each film.
    """

    name: str
    seed: int
    materials: Mapping[str, Material]
    forms: Mapping[str, tuple[Disturb, Sequence[str]]]
    covers_per_film: int


def inside(begin_s: float, end_s: float) -> Callable[[float, float], bool]:
    """Return a rule: the change lies in the window, at least `MARGIN_S` from its ends."""
    return lambda a, b: a + MARGIN_S <= begin_s and end_s + MARGIN_S <= b


def mostly_after(onset_s: float) -> Callable[[float, float], bool]:
    """Return a rule: at least 56 % of the window comes after the onset. docs/camera-events.md requires half of it."""
    return lambda a, b: b - max(a, onset_s) >= 0.56 * (b - a) - 1e-6


def always(_start_s: float, _end_s: float) -> bool:
    """Let each window count."""
    return True


def change_each(frames: U8, times_s: F64, change: Callable[[U8, float], Any], *, onset_s: float = 0.0) -> U8:
    """Return the film with `change(frame, time_s)` in place of each frame from the onset on."""
    out = frames.copy()
    for number, time_s in enumerate(times_s):
        if time_s >= onset_s:
            out[number] = np.clip(change(frames[number], float(time_s)), 0, 255)
    return out


def field(rng: Rng, height: int, width: int, cells: float) -> F32:
    """Return smooth noise (height, width), mean 0, deviation 1, with about `cells` hills across the width."""
    columns = max(3, round(cells) + 2)
    grid = rng.normal(size=(max(3, round(columns * height / width)), columns)).astype(np.float32)
    hills = cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.asarray((hills - hills.mean()) / (hills.std() + 1e-6), np.float32)


def relief(height: Any, angle: float, soft: float) -> F32:
    """Return how steeply a height (h, w) in pixels rises towards a light at `angle`, smoothed over `soft` pixels."""
    smooth = cv2.GaussianBlur(np.asarray(height, np.float32), (0, 0), soft)
    down, across = np.gradient(smooth)
    return np.asarray(across * np.cos(angle) + down * np.sin(angle), np.float32)


def facets(rng: Rng, h: int, w: int, count: int) -> tuple[Any, F32, F32, Any]:
    """Divide (h, w) into about `count` cells; return numbers, offsets from the cell's middle (y, x), and the edges."""
    seeds = np.ones((h, w), np.uint8)
    seeds.flat[rng.integers(0, h * w, count)] = 0
    _, numbers = cv2.distanceTransformWithLabels(seeds, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    middles = np.zeros((count + 1, 2), np.float32)
    middles[numbers[seeds == 0]] = np.argwhere(seeds == 0)
    y, x = np.indices((h, w), np.float32)
    edges = cv2.morphologyEx(numbers.astype(np.float32), cv2.MORPH_GRADIENT, np.ones((2, 2), np.uint8)) > 0
    return numbers, y - middles[numbers, 0], x - middles[numbers, 1], edges


def disc(radius: float) -> F32:
    """Return the kernel of a lens out of focus: a disc."""
    reach = int(np.ceil(radius))
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    kernel = np.clip(radius + 0.5 - np.hypot(x, y), 0, 1)
    return np.asarray(kernel / kernel.sum(), np.float32)


def to_light(picture: Any) -> F32:
    """Return linear light, 0 to 1, of grey levels."""
    return np.asarray((np.asarray(picture, np.float32) / 255) ** 2.2, np.float32)


def to_grey(light: Any) -> U8:
    """Return grey levels of linear light."""
    return np.asarray(255 * np.clip(light, 0, 1) ** (1 / 2.2), np.float32).round().astype(np.uint8)


def colour_between(rng: Rng, low: Sequence[float], high: Sequence[float]) -> F64:
    """Return a colour between two, whose channels vary together."""
    mix = np.clip(rng.uniform(0, 1) + rng.normal(0, 0.06, 3), 0, 1)
    return np.asarray(low) * (1 - mix) + np.asarray(high) * mix


def canvas(h: int, w: int, colour: Any) -> U8:
    """Return a picture for OpenCV's drawing functions, which smooth edges in uint8 alone."""
    return np.clip(np.ones((h, w, 1)) * colour, 0, 255).astype(np.uint8)


def view(frames: U8, size: tuple[float, float], shift: F64, *, roll: F64 | None = None, zoom: F64 | None = None) -> U8:
    """Show a part (height, width; shares of the picture) about a centre that moves by `shift` (F, 2; x, y), in pixels.

    Only real pixels come into view, as the part is smaller than the picture. `roll`: radians. `zoom`: the factor by
    which the part is enlarged.
    """
    _, h, w, _ = frames.shape
    height, width = (int(share * side) // 2 * 2 for share, side in zip(size, (h, w), strict=True))
    out = np.empty((len(frames), height, width, 3), np.uint8)
    for number, frame in enumerate(frames):
        angle, factor = (0.0 if roll is None else roll[number]), (1.0 if zoom is None else zoom[number])
        c, s = np.cos(angle) / factor, np.sin(angle) / factor
        turn = np.array([[c, -s], [s, c]])
        start = np.array([w / 2, h / 2]) + shift[number] - turn @ [width / 2, height / 2]
        out[number] = cv2.warpAffine(
            frame,
            np.c_[turn, start],
            (width, height),
            flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REFLECT_101,
        )
    return out


def turned(
    frames: U8,
    size: tuple[float, float],
    angle: F64,
    *,
    far: float,
    tilts: bool = False,
    rise: F64 | None = None,
) -> U8:
    """Show a part (height, width; shares of the picture) through a lens of focal length `far`, in pixels.

    The lens turns by `angle` (F,), in radians: to a side, or up and down if it `tilts`. It rises by `rise` (F,) pixels.
    """
    _, h, w, _ = frames.shape
    height, width = (int(share * side) // 2 * 2 for share, side in zip(size, (h, w), strict=True))
    to_ray = np.array([[1, 0, -width / 2], [0, 1, -height / 2], [0, 0, far]])
    up = np.zeros(len(frames)) if rise is None else rise
    out = np.empty((len(frames), height, width, 3), np.uint8)
    for number, (frame, c, s) in enumerate(zip(frames, np.cos(angle), np.sin(angle), strict=True)):
        to_picture = np.array([[far, 0, w / 2], [0, far, h / 2 + up[number]], [0, 0, 1]])
        rotation = [[1, 0, 0], [0, c, s], [0, -s, c]] if tilts else [[c, 0, s], [0, 1, 0], [-s, 0, c]]
        out[number] = cv2.warpPerspective(
            frame,
            to_picture @ np.array(rotation) @ to_ray,
            (width, height),
            flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REFLECT_101,
        )
    return out


def cropped(frames: U8) -> U8:
    """Show three quarters of the picture without motion, as a control for the crop of `moved` and `shaking`."""
    return view(frames, (0.75, 0.75), np.zeros((len(frames), 2)))


def shaken(frames: U8, times_s: F64, path: F64, step_s: float = STEP_S) -> U8:
    """Show four fifths of the picture about a centre that follows `path` (n, 2; x, y): pixels, every `step_s`."""
    _, h, w, _ = frames.shape
    limit = 0.085 * np.array([w, h])
    at = np.clip(np.searchsorted(np.arange(len(path)) * step_s, times_s), 0, len(path) - 1)
    return view(frames, (0.82, 0.82), np.clip(path[at], -limit, limit))


def blurred(light: F32, kernel: F32) -> F32:
    """Return the light (H, W, 3) after a lens with this kernel."""
    return np.asarray(cv2.filter2D(light, -1, kernel, borderType=cv2.BORDER_REFLECT_101), np.float32)
