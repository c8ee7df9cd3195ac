"""Keep small pictures of a film while it is read, and the best stills of each label."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, replace
from typing import Final

import cv2
import numpy as np

from engines.activation import present_labels
from engines.arrays import U8
from engines.bundle import ModelSpec
from streamclf.classifier.explanation import Explanation
from streamclf.classifier.window_classifier import WindowResult
from streamclf.config.picture_area import WHOLE, PictureArea
from streamclf.render.heat import draw_heat, heat_on_frame
from streamclf.sources import Frame, Source
from streamclf.units import NS

SIDE: Final = 256
"""The longer side of a still in pixels."""
JPEG_QUALITY: Final = 72
PER_WINDOW: Final = 8
"""Pictures kept of the time of one window."""
MAX_STILLS: Final = 60
PER_LABEL: Final = 6
MAX_KEPT: Final = 600
"""The most stills in memory before the best are chosen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Still:
    """A picture as JPEG, and the prediction that it shows."""

    film: str
    label: int
    probability: float
    time_s: float
    jpeg: bytes
    width: int
    height: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Picture:
    time_s: float
    frame: tuple[int, int]
    """The size (height, width) of the part of the film's frame."""
    rgb: U8


class RecentPictures:
    """Small pictures of the newest part of a film, long enough to find the middle of a window that is just complete."""

    def __init__(self, spec: ModelSpec, *, max_batch: int, area: PictureArea = WHOLE) -> None:
        """`area` is the part of the film that the model sees, and that the pictures show."""
        self._area = area
        self._every_ns = round(NS * spec.window_s / PER_WINDOW)
        late = math.ceil(max_batch * spec.chunk_s / (spec.window_s / PER_WINDOW))  # windows come a batch later
        self._pictures: deque[_Picture] = deque(maxlen=PER_WINDOW + late + 2)
        self._due_ns = 0

    def watch(self, source: Source, frame: Frame) -> None:
        """Keep a picture of the frame, if one is due."""
        if self._pictures and frame.pts_ns < round(self._pictures[-1].time_s * NS):  # the film is read again
            self.clear()
        if frame.skipped or frame.pts_ns < self._due_ns:
            return
        self._due_ns = frame.pts_ns + self._every_ns
        height, width = frame.size_of(self._area)
        scale = min(1.0, SIDE / max(height, width))
        rgb = frame.to_rgb(max(1, round(height * scale)), max(1, round(width * scale)), area=self._area)
        self._pictures.append(_Picture(time_s=frame.pts_ns / NS, frame=(height, width), rgb=rgb))

    def clear(self) -> None:
        """Forget the pictures, before another film."""
        self._pictures.clear()
        self._due_ns = 0

    def nearest(self, time_s: float) -> _Picture | None:
        """Return the picture nearest to a time."""
        return min(self._pictures, key=lambda picture: abs(picture.time_s - time_s), default=None)


class BestStills:
    """The most probable stills of each label: one for each event, from different events, and bounded in number."""

    def __init__(self, spec: ModelSpec, pictures: RecentPictures) -> None:
        self._spec, self._pictures = spec, pictures
        self._per_label = max(1, min(PER_LABEL, MAX_KEPT // len(spec.labels)))
        self._best: dict[int, list[Still]] = {}
        self._event: tuple[int, float, _Picture] | None = None

    def add_window(self, window: WindowResult) -> None:
        """Consider a window that was just classified."""
        present = present_labels(self._spec, window.probabilities)
        if not present:
            self._keep()
            return
        label = present[0]
        probability = float(window.probabilities[label])
        if self._event is not None and self._event[0] == label and self._event[1] >= probability:
            return
        picture = self._pictures.nearest((window.start_s + window.end_s) / 2)
        if picture is None:
            return
        if self._event is not None and self._event[0] != label:
            self._keep()
        self._event = (label, probability, picture)

    def end_film(self, film: str) -> None:
        """Keep the film's last event, and name the stills of this film."""
        self._keep()
        for stills in self._best.values():
            stills[:] = [still if still.film else replace(still, film=film) for still in stills]
        self._pictures.clear()

    def drop_film(self) -> None:
        """Forget the stills of a film that could not be read to its end."""
        self._event = None
        for label, stills in list(self._best.items()):
            stills[:] = [still for still in stills if still.film]
            if not stills:
                del self._best[label]
        self._pictures.clear()

    def choose(self) -> list[Still]:
        """Return the stills to show, by label, most probable first; the best of each label before any second one."""
        ranked = [
            (place, -stills[place].probability, label)
            for label, stills in self._best.items()
            for place in range(len(stills))
        ]
        chosen = sorted(sorted(ranked)[:MAX_STILLS], key=lambda item: (item[2], item[0]))
        return [self._best[label][place] for place, _, label in chosen]

    def _keep(self) -> None:
        if self._event is None:
            return
        label, probability, picture = self._event
        self._event = None
        stills = self._best.setdefault(label, [])
        if len(stills) == self._per_label and stills[-1].probability >= probability:
            return
        stills.append(_still(picture, picture.rgb, "", label, probability))
        stills.sort(key=lambda still: -still.probability)
        del stills[self._per_label :]


def explained_still(film: str, explanation: Explanation, spec: ModelSpec, pictures: RecentPictures) -> Still | None:
    """Return the picture in the middle of an explained window, with its heat; None where no picture was kept."""
    middle_s = (explanation.start_s + explanation.end_s) / 2
    picture = pictures.nearest(middle_s)
    if picture is None:
        return None
    size = (picture.rgb.shape[0], picture.rgb.shape[1])
    heat = explanation.heat.maps[explanation.step_at(picture.time_s)]
    mapped = heat_on_frame(heat, (spec.height, spec.width), picture.frame, spec.resize, size)
    bgr = draw_heat(np.ascontiguousarray(picture.rgb[..., ::-1]), mapped)
    return _still(picture, bgr[..., ::-1], film, explanation.label, explanation.probability)


def _still(picture: _Picture, rgb: U8, film: str, label: int, probability: float) -> Still:
    encoded = cv2.imencode(".jpg", np.ascontiguousarray(rgb[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1]
    return Still(
        film=film,
        label=label,
        probability=probability,
        time_s=picture.time_s,
        jpeg=encoded.tobytes(),
        width=rgb.shape[1],
        height=rgb.shape[0],
    )
