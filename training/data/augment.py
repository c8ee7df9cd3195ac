"""Augment a clip: change all its frames in the same way, so that motion stays as it was."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from engines.arrays import F32, F64, I64, U8
from training.section import Section

_GREY = np.array([0.299, 0.587, 0.114])
"""Luma of RGB (ITU-R BT.601)."""


class AugmentRecipe(Section):
    """The `augment` section of a recipe; by default nothing is changed. Values are drawn evenly, once per clip."""

    crop: tuple[float, float] = Field(
        (1.0, 1.0), description="smallest and largest share of each side that a crop keeps"
    )
    stretch: float = Field(0.0, ge=0, le=0.5, description="change of the aspect ratio by up to this share")
    shift: float = Field(0.0, ge=0, le=0.5, description="shift by up to this share of the sides, beyond the crop's")
    rotate: float = Field(0.0, ge=0, le=180, description="rotation by up to this many degrees, to either side")
    flip: bool = Field(False, description="mirror half of the clips; only for classes that stay the same")
    flip_labels: dict[str, str] = Field({}, description="classes that a mirror swaps, such as left: right")
    reverse: bool = Field(False, description="play half of the clips backwards; only for classes that stay the same")
    reverse_labels: dict[str, str] = Field({}, description="classes that playing backwards swaps")
    brightness: float = Field(0.0, ge=0, le=1, description="change by up to this share of full scale")
    contrast: float = Field(0.0, ge=0, le=1, description="change by up to this share")
    saturation: float = Field(0.0, ge=0, le=1, description="change by up to this share")
    gamma: float = Field(0.0, ge=0, le=1, description="standard deviation of the exponent's logarithm")
    grey: float = Field(0.0, ge=0, le=1, description="share of clips without colour")
    channels: float = Field(0.0, ge=0, le=1, description="share of clips whose colour channels are permuted")
    noise: float = Field(0.0, ge=0, le=64, description="largest standard deviation of noise, in grey levels")
    blur: float = Field(0.0, ge=0, le=1, description="share of clips that are blurred")
    erase: float = Field(0.0, ge=0, le=1, description="share of clips with a grey box over them")
    operations: int = Field(0, ge=0, le=8, description="RandAugment's N: operations drawn for each clip")
    magnitude: float = Field(0.3, ge=0, le=1, description="RandAugment's M as a share of its largest value")
    speed: tuple[float, float] = Field((1.0, 1.0), description="slowest and fastest speed; 1 is the clip's own")
    mixup: float = Field(0.0, ge=0, le=10, description="alpha of mixup's beta distribution; 0: no mixup")

    @model_validator(mode="after")
    def _check_ranges(self) -> AugmentRecipe:
        if not 0.1 <= self.crop[0] <= self.crop[1] <= 1:
            raise ValueError(f"crop={list(self.crop)}: give two shares between 0.1 and 1, the smaller first")
        if not 0.25 <= self.speed[0] <= self.speed[1] <= 4:
            raise ValueError(f"speed={list(self.speed)}: give two factors between 0.25 and 4, the slower first")
        for key in ("flip", "reverse"):
            pairs = getattr(self, f"{key}_labels")
            if pairs and not getattr(self, key):
                raise ValueError(
                    f"{key}_labels without {key}: true has no effect; set {key}: true or remove the labels"
                )
            if set(pairs) & set(pairs.values()):
                raise ValueError(f"{key}_labels={pairs}: name each pair once; pairs work in both directions")
        return self


def label_swaps(pairs: dict[str, str], labels: tuple[str, ...]) -> I64:
    """Return (K,) the class that each class becomes. Raises `ValueError` for a class that is not in `labels`."""
    both = {**pairs, **{after: before for before, after in pairs.items()}}
    if unknown := set(both) - set(labels):
        raise ValueError(f"{min(unknown)!r}: no such class; there are {', '.join(labels)}")
    return np.array([labels.index(both.get(label, label)) for label in labels])


@dataclass(frozen=True, slots=True, kw_only=True)
class AugmentParams:
    """The augmentation of one clip.

    `matrix` (3, 3) maps shares of the augmented frame to shares of the clip's frame, x before y. `colour` (3, 4) is
    applied to (R, G, B, 1), and `tone` (256,) to each value before that. `kernel` is a filter or None.
    """

    matrix: F64
    colour: F64
    tone: U8 | None
    kernel: F32 | None
    noise: float
    box: tuple[float, float, float, float] | None
    flipped: bool
    reversed: bool

    @classmethod
    def sample(cls, rng: np.random.Generator, recipe: AugmentRecipe, frames: U8) -> AugmentParams:
        """Draw the augmentation of the clip `frames` (F, h, w, 3)."""
        aspect = frames.shape[2] / frames.shape[1]
        flipped = recipe.flip and bool(rng.random() < 0.5)
        side = rng.uniform(*recipe.crop)
        stretch = np.exp(rng.uniform(-recipe.stretch, recipe.stretch) / 2)
        slack = (1 - side) / 2 + recipe.shift
        matrix = _translation(rng.uniform(-slack, slack), rng.uniform(-slack, slack))
        matrix = matrix @ _rotation(np.deg2rad(rng.uniform(-recipe.rotate, recipe.rotate)), aspect)
        matrix = matrix @ np.diag([side * stretch * (-1 if flipped else 1), side / stretch, 1.0])
        colour = _colour_matrix(
            brightness=255 * rng.uniform(-recipe.brightness, recipe.brightness),
            contrast=1 + rng.uniform(-recipe.contrast, recipe.contrast),
            saturation=0.0 if rng.random() < recipe.grey else 1 + rng.uniform(-recipe.saturation, recipe.saturation),
        )
        if rng.random() < recipe.channels:
            colour = colour[rng.permutation(3)]
        levels = np.arange(256) / 255
        tone = 255 * levels ** np.exp(rng.normal(0, recipe.gamma)) if recipe.gamma else None
        kernel = _blur_kernel(rng.uniform(0.5, 1.5)) if rng.random() < recipe.blur else None
        for name in rng.choice(OPERATIONS, recipe.operations, replace=False) if recipe.operations else ():
            strength = recipe.magnitude * float(rng.choice((-1, 1)))
            if name in _GEOMETRY:
                matrix = matrix @ _GEOMETRY[name](strength, aspect)
            elif name in _COLOURS:
                colour = _compose(_colour_matrix(**_COLOURS[name](strength)), colour)
            elif name in _TONES:
                tone = _TONES[name](np.arange(256.0) if tone is None else tone, abs(strength), frames)
            else:
                kernel = _sharpness_kernel(strength)
        box = None
        if rng.random() < recipe.erase:
            height, width = rng.uniform(0.15, 0.4, 2)
            box = (rng.uniform(0, 1 - width), rng.uniform(0, 1 - height), width, height)
        return cls(
            matrix=matrix,
            colour=colour,
            tone=None if tone is None else np.clip(tone + 0.5, 0, 255).astype(np.uint8),
            kernel=kernel,
            noise=rng.uniform(0, recipe.noise) if recipe.noise else 0.0,
            box=box,
            flipped=flipped,
            reversed=recipe.reverse and bool(rng.random() < 0.5),
        )

    def apply(self, rng: np.random.Generator, frames: U8, height: int, width: int) -> U8:
        """Augment (F, h, w, 3) uint8 RGB into (F, height, width, 3). The caller orders the frames (`reversed`)."""
        h, w = frames.shape[1:3]
        # From shares around the middle to pixels, whose centres lie at halves.
        to_source = np.array([[w, 0, (w - 1) / 2], [0, h, (h - 1) / 2], [0, 0, 1]], np.float64)
        from_target = np.linalg.inv(
            np.array([[width, 0, (width - 1) / 2], [0, height, (height - 1) / 2], [0, 0, 1]], np.float64)
        )
        matrix = (to_source @ self.matrix @ from_target)[:2]
        is_identity = (h, w) == (height, width) and np.allclose(matrix, np.eye(3)[:2])
        changes_colour = not np.array_equal(self.colour, _SAME_COLOUR)
        out = np.empty((len(frames), height, width, 3), np.uint8)
        for i, frame in enumerate(frames):
            image = np.asarray(frame)
            if not is_identity:
                image = cv2.warpAffine(
                    image,
                    matrix,
                    (width, height),
                    flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
                    borderMode=cv2.BORDER_REFLECT_101,
                )
            if self.tone is not None:
                image = cv2.LUT(image, self.tone)
            if changes_colour:
                image = cv2.transform(image, self.colour)
            if self.kernel is not None:
                image = cv2.filter2D(image, -1, self.kernel)
            out[i] = image
        if self.box is not None:
            x, y, box_w, box_h = self.box
            out[:, int(y * height) : int((y + box_h) * height), int(x * width) : int((x + box_w) * width)] = 128
        if self.noise:
            # One noise field, shifted for each frame: a new field for each frame would take most of the time.
            field = rng.normal(0, self.noise, (2 * height, 2 * width, 3)).astype(np.int16)
            for image in out:
                top, left = rng.integers(height), rng.integers(width)
                noisy = image + field[top : top + height, left : left + width]
                image[...] = noisy.clip(0, 255)
        return out

    def apply_to_points(self, points: F32) -> F32:
        """Map (F, 2) x and y from shares of the clip's frame to shares of the augmented frame."""
        inverse = np.linalg.inv(self.matrix)
        centred = points.astype(np.float64) - 0.5
        return np.asarray(centred @ inverse[:2, :2].T + inverse[:2, 2] + 0.5, np.float32)


_SAME_COLOUR = np.eye(3, 4)


def _translation(x: float, y: float) -> F64:
    matrix = np.eye(3)
    matrix[:2, 2] = x, y
    return matrix


def _rotation(angle: float, aspect: float) -> F64:
    """Return a rotation in pixels, expressed in shares of a frame whose width is `aspect` times its height."""
    cos, sin = np.cos(angle), np.sin(angle)
    return np.array([[cos, -sin / aspect, 0], [sin * aspect, cos, 0], [0, 0, 1]])


def _shear(x: float, y: float) -> F64:
    return np.array([[1, x, 0], [y, 1, 0], [0, 0, 1]])


def _colour_matrix(*, brightness: float = 0.0, contrast: float = 1.0, saturation: float = 1.0) -> F64:
    """Return (3, 4): contrast around middle grey, saturation around each pixel's grey."""
    mixing = saturation * np.eye(3) + (1 - saturation) * np.tile(_GREY, (3, 1))
    offset = np.full((3, 1), 127.5 * (1 - contrast) + brightness)
    return np.hstack([contrast * mixing, offset])


def _compose(after: F64, before: F64) -> F64:
    """Return the colour matrix that applies `before` and then `after`."""
    return np.asarray(after @ np.vstack([before, [0, 0, 0, 1]]))


def _blur_kernel(sigma: float) -> F32:
    line = cv2.getGaussianKernel(5, sigma)
    return np.asarray(line @ line.T, np.float32)


def _sharpness_kernel(strength: float) -> F32:
    """Return a filter between blurred (-1) and sharpened (1)."""
    soft = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]], np.float32) / 13
    kernel = -strength * soft
    kernel[1, 1] += 1 + strength
    return np.asarray(kernel, np.float32)


def _histogram(frames: U8) -> npt.NDArray[np.int64]:
    """Count (256,) values of a few frames of the clip, all channels together."""
    return np.bincount(np.asarray(frames[:: max(len(frames) // 4, 1), ::2, ::2]).ravel(), minlength=256)


def _autocontrast(tone: Any, strength: float, frames: U8) -> Any:
    used = np.flatnonzero(_histogram(frames))
    low, high = float(used[0]), float(max(used[-1], used[0] + 1))
    return (1 - strength) * tone + strength * np.clip((tone - low) * 255 / (high - low), 0, 255)


def _equalise(tone: Any, strength: float, frames: U8) -> Any:
    share = np.cumsum(_histogram(frames))
    level = 255 * share / share[-1]
    return (1 - strength) * tone + strength * level[np.clip(tone, 0, 255).astype(int)]


def _posterise(tone: Any, strength: float, frames: U8) -> Any:
    size = 2 ** round(4 * strength)
    return np.floor(tone / size) * size


def _solarise(tone: Any, strength: float, frames: U8) -> Any:
    return np.where(tone >= 256 * (1 - strength), 255 - tone, tone)


# RandAugment (Cubuk et al. 2019), with one draw per clip: each operation at its largest strength.
_GEOMETRY = {
    "rotate": lambda s, aspect: _rotation(np.deg2rad(30 * s), aspect),
    "shear_x": lambda s, aspect: _shear(0.3 * s, 0),
    "shear_y": lambda s, aspect: _shear(0, 0.3 * s),
    "shift_x": lambda s, aspect: _translation(0.3 * s, 0),
    "shift_y": lambda s, aspect: _translation(0, 0.3 * s),
}
_COLOURS = {
    "brightness": lambda s: {"brightness": 100 * s},
    "contrast": lambda s: {"contrast": 1 + 0.9 * s},
    "saturation": lambda s: {"saturation": 1 + 0.9 * s},
}
_TONES = {
    "autocontrast": _autocontrast,
    "equalise": _equalise,
    "posterise": _posterise,
    "solarise": _solarise,
}
OPERATIONS = (*_GEOMETRY, *_COLOURS, *_TONES, "sharpness")
