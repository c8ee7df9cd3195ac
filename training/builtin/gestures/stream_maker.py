"""Compose training streams of encoded scenes: shapes, other motion of hands, and ordinary film, one after the other.

A window of a stream is labelled by its end: with the shape that has just ended, otherwise with `other`. While a shape
is being drawn, the label is `other`: the first strokes of a star are a caret, and the first of a square is `right`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from engines.arrays import F32, I64
from training.builtin.gestures.encoded_scenes import EncodedScene
from training.builtin.gestures.streams import Rng

OTHER: Final = "other"
LABELLED_S: Final = 1.25
"""Seconds after the end of a shape in which a window has its label."""
UNCLEAR_S: Final = (0.5, 0.75)
"""Seconds before the end of a shape, and after the labelled ones, in which a window has no label."""
UNCLEAR: Final = -1
NEAR_S: Final = 4.0

_SCENES: Final = {"shape": 0.5, "hand": 0.1, "film": 0.2, "mixed": 0.2}
_BEFORE: Final = {"enter": 0.4, "rest": 0.3, "cut": 0.3}
_FILM_SPEEDS: Final = (1, 1, 2, 3)
"""How many chunks a film advances in a chunk of the stream: people walk by quickly and slowly."""
_AFTER: Final = {"leave": 0.3, "back": 0.2, "rest": 0.25, "cut": 0.25}


class Event(NamedTuple):
    """A shape in a stream: its label, and the first and last chunk in which it is drawn."""

    label: str
    first: int
    last: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamMaker:
    """The encoded scenes of which streams are composed.

    `scenes`: for each source of clips, the scenes of each label. `speeds`: the slowest and fastest speed for each
    source. `films`: encoded ordinary films. `points`: how many points a feature begins with, see
    `training.models.keypoint`. `chunk_s`: seconds of a chunk.
    """

    scenes: Sequence[Mapping[str, Sequence[EncodedScene]]]
    speeds: Sequence[tuple[float, float]]
    films: Sequence[F32]
    points: int
    chunk_s: float

    def compose(self, rng: Rng, chunks: int) -> tuple[F32, list[Event]]:
        """Compose a stream: (chunks, F) features, and the shapes that end in it."""
        parts: list[F32] = []
        events: list[Event] = []
        shapes = [label for label in self.scenes[0] if label != OTHER]
        at = 0
        while at < chunks:
            kind = _choose(rng, _SCENES)
            if kind == "film" and self.films:
                part = self._film(rng, int(rng.uniform(2, 8) / self.chunk_s))
            elif kind == "mixed" and self.films:
                part = self._mixed(rng, shapes[int(rng.integers(len(shapes)))])
            else:
                label = OTHER if kind == "hand" else shapes[int(rng.integers(len(shapes)))]
                part, event = self._scene(rng, label)
                if label != OTHER:
                    events.append(Event(label, at + event.first, at + event.last))
            parts.append(self.moved(rng, part))
            at += len(part)
        return np.concatenate(parts)[:chunks], [event for event in events if event.last < chunks]

    def moved(self, rng: Rng, features: F32) -> F32:
        """Move, scale and turn the points of a scene (n, F), and let them sway as on a head that walks."""
        p = self.points
        xy = np.stack([features[:, :p], features[:, p : 2 * p]], axis=2)
        angle, scale = rng.normal(0, 0.06), np.exp(rng.normal(0, 0.1) + rng.normal(0, 0.04, 2))
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) * scale
        sway = np.cumsum(rng.normal(0, 0.01, (len(xy), 2)), axis=0) + rng.normal(0, [0.2, 0.16])
        if rng.random() < 0.3:
            step = 2 * np.pi * rng.uniform(1.4, 2.2) * self.chunk_s * np.arange(len(xy)) + rng.uniform(0, 6)
            sway += np.stack([np.sin(step / 2), np.sin(step)], axis=1) * rng.uniform(0, 0.1)
        xy = xy @ turn + sway[:, None] + rng.normal(0, 0.02, xy.shape)
        return np.concatenate([xy[..., 0], xy[..., 1], features[:, 2 * p :]], axis=1).astype(np.float32)

    def _scene(self, rng: Rng, label: str) -> tuple[F32, Event]:
        source = int(rng.integers(len(self.scenes)))
        scene = self.scenes[source][label][int(rng.integers(len(self.scenes[source][label])))]
        before, after = _choose(rng, _BEFORE), _choose(rng, _AFTER)
        parts: list[F32] = []
        if before == "enter":
            parts += [self._held(rng, scene.enter[:3], 3.0), scene.enter]
        elif before == "rest":
            parts.append(self._held(rng, scene.rest, 4.0))
        first = sum(map(len, parts))
        speed = float(np.exp(rng.uniform(*np.log(self.speeds[source]))))
        step = scene.rate * self.chunk_s * speed
        indices = np.arange(rng.uniform(0, step), len(scene.middle), step).astype(np.int64)
        parts.append(scene.middle[indices])
        last = first + int(np.searchsorted(indices, scene.last - step / 2))
        if after == "rest":
            parts.append(self._held(rng, scene.held, 4.0))
        elif after != "cut":
            moving = scene.leave if after == "leave" else scene.back
            parts += [moving, self._held(rng, moving[-3:], 3.0)]
        out = np.concatenate(parts)
        return out, Event(label, first, min(last, len(out) - 1))

    def _held(self, rng: Rng, features: F32, longest_s: float) -> F32:
        """Repeat chunks of a scene in which nothing moves, for up to `longest_s`."""
        return features[rng.integers(len(features), size=int(rng.uniform(0, longest_s) / self.chunk_s))]

    def _film(self, rng: Rng, chunks: int) -> F32:
        """Join pieces of films to `chunks` chunks. A piece runs forwards and backwards: many films last two seconds."""
        parts: list[F32] = []
        left = chunks
        while left > 0:
            film = self.films[int(rng.integers(len(self.films)))]
            count = min(left, max(int(rng.uniform(0.5, 8) / self.chunk_s), 1))
            at = (int(rng.integers(2 * len(film))) + np.arange(count) * rng.choice(_FILM_SPEEDS)) % (2 * len(film))
            parts.append(film[np.where(at < len(film), at, 2 * len(film) - 1 - at)])
            left -= count
        return np.concatenate(parts)

    def _mixed(self, rng: Rng, label: str) -> F32:
        """Give ordinary film the path of a shape, or a hand the path of points in ordinary film.

        A shape needs both a finger and its path. Without such scenes, the head takes a path alone for a shape.
        """
        scene, _ = self._scene(rng, label)
        film = self._film(rng, len(scene))
        path, picture = (scene, film) if rng.random() < 0.5 else (film, scene)
        return np.concatenate([path[:, : 2 * self.points], picture[:, 2 * self.points :]], axis=1)


def window_labels(events: Sequence[Event], ends: I64, chunk_s: float, labels: Sequence[str]) -> I64:
    """Return (W,) the label of each window, or `UNCLEAR`. `ends`: (W,) the last chunk of each window."""
    out = np.full(len(ends), labels.index(OTHER))
    for event in events:
        after_s = (ends - event.last) * chunk_s
        out[(after_s > -UNCLEAR_S[0]) & (after_s < 0)] = UNCLEAR
        out[(after_s > LABELLED_S) & (after_s < LABELLED_S + UNCLEAR_S[1])] = UNCLEAR
    for event in events:
        after_s = (ends - event.last) * chunk_s
        out[(after_s >= 0) & (after_s <= LABELLED_S)] = labels.index(event.label)
    return out


def is_near_shape(events: Sequence[Event], ends: I64, chunk_s: float) -> npt.NDArray[np.bool_]:
    """Return (W,) whether a window ends while a shape is drawn, or up to `NEAR_S` after it."""
    near = np.zeros(len(ends), bool)
    for event in events:
        near |= (ends >= event.first) & (ends <= event.last + NEAR_S / chunk_s)
    return near


def _choose(rng: Rng, odds: Mapping[str, float]) -> str:
    return str(rng.choice(list(odds), p=list(odds.values())))
