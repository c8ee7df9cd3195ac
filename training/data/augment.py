"""One clip seen otherwise: every frame of it in the same way, so that what moves still moves as it did."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from engines.arrays import F32, F64, U8
from training.section import Section

_GREY = np.array([0.299, 0.587, 0.114])
"""Luma of RGB (ITU-R BT.601)."""


class AugmentRecipe(Section):
    """How differently training may see a clip; nothing by default. Ranges are drawn from evenly, per clip."""

    crop: tuple[float, float] = Field((1.0, 1.0), description="share of each side that is seen")
    stretch: float = Field(0.0, ge=0, le=0.5, description="width against height, up to this share more or less")
    shift: float = Field(0.0, ge=0, le=0.5, description="of the picture's sides, beyond what the crop leaves")
    rotate: float = Field(0.0, ge=0, le=180, description="degrees, to either side")
    flip: bool = Field(False, description="mirror half of the clips, for classes that survive it")
    flip_labels: dict[str, str] = Field({}, description="classes that a mirror swaps, such as left: right")
    reverse: bool = Field(False, description="play half of the clips backwards, for classes that survive it")
    reverse_labels: dict[str, str] = Field({}, description="classes that playing backwards swaps")
    brightness: float = Field(0.0, ge=0, le=1, description="up to this share of full scale more or less")
    contrast: float = Field(0.0, ge=0, le=1)
    saturation: float = Field(0.0, ge=0, le=1)
    gamma: float = Field(0.0, ge=0, le=1, description="spread of the exponent's logarithm")
    grey: float = Field(0.0, ge=0, le=1, description="share of clips without colour")
    channels: float = Field(0.0, ge=0, le=1, description="share of clips whose colours change places")
    noise: float = Field(0.0, ge=0, le=64, description="grey levels, up to")
    blur: float = Field(0.0, ge=0, le=1, description="share of clips out of focus")
    erase: float = Field(0.0, ge=0, le=1, description="share of clips with a grey box over them")
    operations: int = Field(0, ge=0, le=8, description="RandAugment's N: operations drawn for each clip")
    magnitude: float = Field(0.3, ge=0, le=1, description="RandAugment's M as a share of its largest")
    speed: tuple[float, float] = Field((1.0, 1.0), description="slowest and fastest, 1 as filmed")
    mixup: float = Field(0.0, ge=0, le=10, description="alpha of the beta distribution; 0 mixes nothing")

    @model_validator(mode="after")
    def _ordered(self) -> AugmentRecipe:
        if not 0.1 <= self.crop[0] <= self.crop[1] <= 1:
            raise ValueError(f"crop={list(self.crop)}: two shares, the smaller first, between 0.1 and 1")
        if not 0.25 <= self.speed[0] <= self.speed[1] <= 4:
            raise ValueError(f"speed={list(self.speed)}: two factors, the slower first, between 0.25 and 4")
        for key in ("flip", "reverse"):
            pairs = getattr(self, f"{key}_labels")
            if pairs and not getattr(self, key):
                raise ValueError(f"{key}_labels without {key}: true: nothing would be swapped; set it or remove them")
            if set(pairs) & set(pairs.values()):
                raise ValueError(f"{key}_labels={pairs}: name each pair once; the other way round is understood")
        return self

    @property
    def changes_pictures(self) -> bool:
        """Whether anything but time, labels' smoothing and mixing is drawn."""
        return any(
            getattr(self, name) != AugmentRecipe.model_fields[name].default
            for name in AugmentRecipe.model_fields
            if name not in ("magnitude", "mixup", "speed")
        )


def swaps(pairs: dict[str, str], labels: tuple[str, ...]) -> npt.NDArray[np.int64]:
    """(K,) the class that each becomes. Raises `ValueError` for one that there is not."""
    both = {**pairs, **{after: before for before, after in pairs.items()}}
    if unknown := set(both) - set(labels):
        raise ValueError(f"{min(unknown)!r}: no such class; there are {', '.join(labels)}")
    return np.array([labels.index(both.get(label, label)) for label in labels])


@dataclass(frozen=True, slots=True, kw_only=True)
class AugmentParams:
    """How one clip is seen. `place`: (3, 3), share of the seen picture -> share of the clip's, x before y.

    `colour` (3, 4) acts on RGB and 1; `tone` (256,) on each value before it; `kernel` is a filter or None.
    """

    place: F64
    colour: F64
    tone: U8 | None
    kernel: F32 | None
    noise: float
    box: tuple[float, float, float, float] | None
    flipped: bool
    reversed: bool


def draw_look(rng: np.random.Generator, recipe: AugmentRecipe, frames: U8) -> AugmentParams:
    """Draw how the clip `frames` (F, h, w, 3) is seen."""
    aspect = frames.shape[2] / frames.shape[1]
    flipped = recipe.flip and bool(rng.random() < 0.5)
    side = rng.uniform(*recipe.crop)
    stretch = np.exp(rng.uniform(-recipe.stretch, recipe.stretch) / 2)
    room = (1 - side) / 2 + recipe.shift
    place = _moved(rng.uniform(-room, room), rng.uniform(-room, room))
    place = place @ _turned(np.deg2rad(rng.uniform(-recipe.rotate, recipe.rotate)), aspect)
    place = place @ np.diag([side * stretch * (-1 if flipped else 1), side / stretch, 1.0])
    colour = _colour(
        brightness=255 * rng.uniform(-recipe.brightness, recipe.brightness),
        contrast=1 + rng.uniform(-recipe.contrast, recipe.contrast),
        saturation=0.0 if rng.random() < recipe.grey else 1 + rng.uniform(-recipe.saturation, recipe.saturation),
    )
    if rng.random() < recipe.channels:
        colour = colour[rng.permutation(3)]
    levels = np.arange(256) / 255
    tone = 255 * levels ** np.exp(rng.normal(0, recipe.gamma)) if recipe.gamma else None
    kernel = _blurred(rng.uniform(0.5, 1.5)) if rng.random() < recipe.blur else None
    for name in rng.choice(OPERATIONS, recipe.operations, replace=False) if recipe.operations else ():
        strength = recipe.magnitude * float(rng.choice((-1, 1)))
        if name in _PLACES:
            place = place @ _PLACES[name](strength, aspect)
        elif name in _COLOURS:
            colour = _chained(_colour(**_COLOURS[name](strength)), colour)
        elif name in _TONES:
            tone = _TONES[name](np.arange(256.0) if tone is None else tone, abs(strength), frames)
        else:
            kernel = _sharpened(strength)
    box = None
    if rng.random() < recipe.erase:
        height, width = rng.uniform(0.15, 0.4, 2)
        box = (rng.uniform(0, 1 - width), rng.uniform(0, 1 - height), width, height)
    return AugmentParams(
        place=place,
        colour=colour,
        tone=None if tone is None else np.clip(tone + 0.5, 0, 255).astype(np.uint8),
        kernel=kernel,
        noise=rng.uniform(0, recipe.noise) if recipe.noise else 0.0,
        box=box,
        flipped=flipped,
        reversed=recipe.reverse and bool(rng.random() < 0.5),
    )


def see(rng: np.random.Generator, look: AugmentParams, frames: U8, height: int, width: int) -> U8:
    """(F, h, w, 3) uint8 RGB -> (F, height, width, 3): the frames through `look`, in the order they come."""
    h, w = frames.shape[1:3]
    # From shares around the middle to pixels, whose centres lie at halves.
    to_source = np.array([[w, 0, (w - 1) / 2], [0, h, (h - 1) / 2], [0, 0, 1]], np.float64)
    from_target = np.linalg.inv(
        np.array([[width, 0, (width - 1) / 2], [0, height, (height - 1) / 2], [0, 0, 1]], np.float64)
    )
    matrix = (to_source @ look.place @ from_target)[:2]
    stays = (h, w) == (height, width) and np.allclose(matrix, np.eye(3)[:2])
    recolour = not np.array_equal(look.colour, _NO_COLOUR)
    out = np.empty((len(frames), height, width, 3), np.uint8)
    for i, frame in enumerate(frames):
        picture = np.asarray(frame)
        if not stays:
            picture = cv2.warpAffine(
                picture,
                matrix,
                (width, height),
                flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
                borderMode=cv2.BORDER_REFLECT_101,
            )
        if look.tone is not None:
            picture = cv2.LUT(picture, look.tone)
        if recolour:
            picture = cv2.transform(picture, look.colour)
        if look.kernel is not None:
            picture = cv2.filter2D(picture, -1, look.kernel)
        out[i] = picture
    if look.box is not None:
        x, y, box_w, box_h = look.box
        out[:, int(y * height) : int((y + box_h) * height), int(x * width) : int((x + box_w) * width)] = 128
    if look.noise:
        # One field, shifted for each frame: drawing a new one each time would take most of the time.
        field = rng.normal(0, look.noise, (2 * height, 2 * width, 3)).astype(np.int16)
        for picture in out:
            top, left = rng.integers(height), rng.integers(width)
            noisy = picture + field[top : top + height, left : left + width]
            picture[...] = noisy.clip(0, 255)
    return out


def see_points(look: AugmentParams, points: F32) -> F32:
    """(F, 2) x and y as shares of the clip's picture -> of the one that `see` gives."""
    inverse = np.linalg.inv(look.place)
    centred = points.astype(np.float64) - 0.5
    return np.asarray(centred @ inverse[:2, :2].T + inverse[:2, 2] + 0.5, np.float32)


_NO_COLOUR = np.eye(3, 4)


def _moved(x: float, y: float) -> F64:
    matrix = np.eye(3)
    matrix[:2, 2] = x, y
    return matrix


def _turned(angle: float, aspect: float) -> F64:
    """A rotation in pixels, written in shares of a picture `aspect` times as wide as high."""
    cos, sin = np.cos(angle), np.sin(angle)
    return np.array([[cos, -sin / aspect, 0], [sin * aspect, cos, 0], [0, 0, 1]])


def _sheared(x: float, y: float) -> F64:
    return np.array([[1, x, 0], [y, 1, 0], [0, 0, 1]])


def _colour(*, brightness: float = 0.0, contrast: float = 1.0, saturation: float = 1.0) -> F64:
    """(3, 4): contrast around middle grey, saturation around each pixel's grey."""
    mixing = saturation * np.eye(3) + (1 - saturation) * np.tile(_GREY, (3, 1))
    offset = np.full((3, 1), 127.5 * (1 - contrast) + brightness)
    return np.hstack([contrast * mixing, offset])


def _chained(after: F64, before: F64) -> F64:
    return np.asarray(after @ np.vstack([before, [0, 0, 0, 1]]))


def _blurred(sigma: float) -> F32:
    line = cv2.getGaussianKernel(5, sigma)
    return np.asarray(line @ line.T, np.float32)


def _sharpened(strength: float) -> F32:
    """Between a soft picture (-1) and a hard one (1)."""
    soft = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]], np.float32) / 13
    kernel = -strength * soft
    kernel[1, 1] += 1 + strength
    return np.asarray(kernel, np.float32)


def _histogram(frames: U8) -> npt.NDArray[np.int64]:
    """(256,) of a few frames of the clip, all channels together."""
    return np.bincount(np.asarray(frames[:: max(len(frames) // 4, 1), ::2, ::2]).ravel(), minlength=256)


def _autocontrast(tone: Any, strength: float, frames: U8) -> Any:
    seen = np.flatnonzero(_histogram(frames))
    low, high = float(seen[0]), float(max(seen[-1], seen[0] + 1))
    return (1 - strength) * tone + strength * np.clip((tone - low) * 255 / (high - low), 0, 255)


def _equalised(tone: Any, strength: float, frames: U8) -> Any:
    share = np.cumsum(_histogram(frames))
    level = 255 * share / share[-1]
    return (1 - strength) * tone + strength * level[np.clip(tone, 0, 255).astype(int)]


def _posterised(tone: Any, strength: float, frames: U8) -> Any:
    size = 2 ** round(4 * strength)
    return np.floor(tone / size) * size


def _solarised(tone: Any, strength: float, frames: U8) -> Any:
    return np.where(tone >= 256 * (1 - strength), 255 - tone, tone)


# RandAugment (Cubuk et al. 2019), with one draw per clip: what it does at its largest strength.
_PLACES = {
    "rotate": lambda s, aspect: _turned(np.deg2rad(30 * s), aspect),
    "shear_x": lambda s, aspect: _sheared(0.3 * s, 0),
    "shear_y": lambda s, aspect: _sheared(0, 0.3 * s),
    "shift_x": lambda s, aspect: _moved(0.3 * s, 0),
    "shift_y": lambda s, aspect: _moved(0, 0.3 * s),
}
_COLOURS = {
    "brightness": lambda s: {"brightness": 100 * s},
    "contrast": lambda s: {"contrast": 1 + 0.9 * s},
    "saturation": lambda s: {"saturation": 1 + 0.9 * s},
}
_TONES = {
    "autocontrast": _autocontrast,
    "equalise": _equalised,
    "posterise": _posterised,
    "solarise": _solarised,
}
OPERATIONS = (*_PLACES, *_COLOURS, *_TONES, "sharpness")
