"""Make films of fixed cameras for a live measurement: undisturbed, or with one disturbance that comes, stays and goes.

The film is real, the disturbances are the benchmark's. Films shorter than wanted are played forwards and backwards, so
that no cut is seen where they repeat.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import av
import numpy as np

from engines.arrays import F64, U8
from training.builtin.camera_events import LABELS
from training.builtin.camera_events.benchmark import NOT_FIXED, RealFilm
from training.builtin.camera_events.tampering import MARGIN_S, STRENGTHS, TAMPERINGS, Excerpt, Rule, Tampered
from training.errors import DataError

MAX_WIDTH: Final = 384
"""Films are made smaller than this, like the second stream of a camera, so that an hour of them takes minutes."""
MAX_RATE: Final = 12.5
BEFORE_S, STAY_S, AFTER_S = 4.0, 8.0, 4.0
"""The seconds of an event's film: undisturbed, with the disturbance coming, staying and going, and undisturbed."""
LOOP_S: Final = 12.0
"""The length to which a shorter undisturbed film is repeated."""
STATES: Final = ("covered", "defocused", "noise")
"""Labels that last. They go as they came; the camera of the others stays as it is after the event."""
_VARIANTS: Final = ((1.0, False), (1.0, True), (0.8, False), (0.7, True))
"""(share of the width and height that is seen, mirrored) in each pass over the undisturbed films."""
_SEEDS: Final = 40
_FAR_S: Final = 100.0
_INSTANT_S: Final = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class EventFilm:
    """A film with one event: `label` from `start_s` to `end_s`."""

    source: RealFilm
    label: str
    strength: str
    start_s: float
    end_s: float
    excerpt: Excerpt


def fixed_films(films: Sequence[RealFilm]) -> list[RealFilm]:
    """Return the films whose camera does not move."""
    return [film for film in films if film.path.name not in NOT_FIXED]


def event_films(films: Sequence[RealFilm], each: int) -> Iterator[EventFilm]:
    """Yield `each` films with every label and for each half of `films`, from `clips` and `no_fight` in turn."""
    for half in ("held-out", "tuning"):
        sources = [
            [film for film in fixed_films(films) if (film.half, film.source) == (half, source)]
            for source in ("clips", "no_fight")
        ]
        sources = [films for films in sources if films]
        for number in range(each if sources else 0):
            for place, label in enumerate(LABELS[1:]):
                rng = _rng(f"{half}/{label}/{number}")
                choices = sources[(number + place) % len(sources)]
                film = choices[int(rng.integers(len(choices)))]
                yield _disturb(film, label, STRENGTHS[number // 2 % len(STRENGTHS)], rng)


def ordinary_films(films: Sequence[RealFilm]) -> Iterator[tuple[RealFilm, Iterator[tuple[float, U8]]]]:
    """Yield (film, its frames with their times) of all fixed films, once for each variant, undisturbed.

    Each variant begins at another moment, mirrors the film or shows a part of it.
    """
    for number, (share, is_mirrored) in enumerate(_VARIANTS):
        for film in fixed_films(films):
            rng = _rng(f"{film.path.name}/{number}")
            left, top = (1 - share) * rng.uniform(0, 1, 2)
            start_s = film.start_s + float(rng.uniform(0, 1.5))
            frames = read_film(film.path, start_s=start_s, end_s=film.end_s, at_least_s=LOOP_S)
            yield film, ((time_s, _part(image, share, left, top, is_mirrored)) for time_s, image in frames)


def read_film(
    path: Path, *, start_s: float = 0.0, end_s: float = math.inf, at_least_s: float = 0.0
) -> Iterator[tuple[float, U8]]:
    """Yield the frames of a film from `start_s` to `end_s` or its end, at most `MAX_RATE` a second.

    A frame is (time from 0 in seconds, (H, W, 3) uint8 RGB). A film that ends before `at_least_s` goes on
    backwards, then forwards again.
    """
    kept: list[tuple[float, U8]] = []
    first_s, last_s = 0.0, -_FAR_S
    for time_s, frame in _decode(path, start_s):
        if time_s > end_s:
            break
        if time_s - last_s < 1 / MAX_RATE - 0.005:
            continue
        first_s, last_s = (time_s if last_s < 0 else first_s), time_s
        image = _scaled(frame)
        if time_s - first_s <= at_least_s:
            kept.append((time_s - first_s, image))
        yield time_s - first_s, image
    if len(kept) < 2:
        raise DataError(f"{path}: fewer than two frames after {start_s:.1f} s; give films of at least two seconds")
    length_s, turns = kept[-1][0], 1
    while last_s - first_s < at_least_s and turns * length_s < at_least_s:
        order = range(1, len(kept)) if turns % 2 == 0 else range(len(kept) - 2, -1, -1)
        for index in order:
            offset_s = kept[index][0] if turns % 2 == 0 else length_s - kept[index][0]
            yield turns * length_s + offset_s, kept[index][1]
        turns += 1


def duration_s(film: RealFilm) -> float:
    """Return how long the used part of a film is, as its container says. Raises `DataError`."""
    with _open(film.path) as container:
        return min(float((container.duration or 0) / av.time_base), film.end_s) - film.start_s


def _decode(path: Path, start_s: float) -> Iterator[tuple[float, av.VideoFrame]]:
    with _open(path) as container:
        stream = container.streams.video[0]
        if start_s > 0:
            container.seek(int(start_s * av.time_base), backward=True)
        for frame in container.decode(stream):
            if frame.time is not None and frame.time >= start_s:
                yield frame.time, frame


@contextmanager
def _open(path: Path) -> Iterator[av.container.InputContainer]:
    try:
        with av.open(str(path)) as container:
            yield container
    except (av.FFmpegError, IndexError, OSError) as error:
        raise DataError(f"{path}: cannot be read as video ({error}); play it to check it") from error


def _scaled(frame: av.VideoFrame) -> U8:
    width = min(MAX_WIDTH, frame.width) // 2 * 2
    height = max(2, round(frame.height * width / frame.width / 2) * 2)
    return np.asarray(frame.to_ndarray(format="rgb24", width=width, height=height, interpolation="AREA"), np.uint8)


def _part(image: U8, share: float, left: float, top: float, is_mirrored: bool) -> U8:
    """Cut `share` of the width and height, from `left` and `top` (shares) on, and mirror it."""
    height, width = image.shape[:2]
    x, y = int(left * width), int(top * height)
    part = image[y : y + round(share * height), x : x + round(share * width)]
    return np.ascontiguousarray(part[:, ::-1] if is_mirrored else part)


def _disturb(film: RealFilm, label: str, strength: str, rng: np.random.Generator) -> EventFilm:
    """Disturb the film from `BEFORE_S` on. Times before the disturbance are its time 0, so that nothing happens."""
    length_s = BEFORE_S + STAY_S + AFTER_S
    frames, times = [], []
    start_s = film.start_s + float(rng.uniform(0, max(0.0, duration_s(film) - length_s)))
    for time_s, image in read_film(film.path, start_s=start_s, end_s=film.end_s, at_least_s=length_s):
        if time_s > length_s:
            break
        frames.append(image)
        times.append(time_s)
    times_s = np.array(times)
    disturbed_s = np.clip(times_s - BEFORE_S, 0, STAY_S)
    if label in STATES:
        disturbed_s = np.minimum(disturbed_s, STAY_S - disturbed_s)
    seed, (begin_s, finish_s) = next(
        (seed, span)
        for seed in map(int, rng.integers(2**32, size=_SEEDS))
        if (span := _span(_apply(label, seed, frames[:1], np.array([STAY_S]), strength).rule))[0] > 0
        or label not in STATES
    )
    tampered = _apply(label, seed, frames, disturbed_s, strength)
    return EventFilm(
        source=film,
        label=label,
        strength=strength,
        start_s=BEFORE_S + begin_s,
        end_s=BEFORE_S + (STAY_S - begin_s if label in STATES else finish_s),
        excerpt=Excerpt(frames=tampered.excerpt.frames, times_s=times_s),
    )


def _apply(label: str, seed: int, frames: Sequence[U8], times_s: F64, strength: str) -> Tampered:
    excerpt = Excerpt(frames=np.stack(frames), times_s=times_s)
    return TAMPERINGS[label](np.random.default_rng(seed), excerpt, strength)


def _span(rule: Rule) -> tuple[float, float]:
    """Return when a disturbance begins and ends, as its rule for windows implies; it stays for `STAY_S` at most."""

    def is_reported_at(time_s: float) -> bool:
        return rule(time_s, time_s + _INSTANT_S)

    if is_reported_at(0.0):
        return 0.0, STAY_S
    if is_reported_at(STAY_S):
        return _first(is_reported_at), STAY_S
    return (
        _first(lambda time_s: not rule(time_s - MARGIN_S, _FAR_S)),
        _first(lambda time_s: rule(-_FAR_S, time_s + MARGIN_S)),
    )


def _first(is_true: Callable[[float], bool]) -> float:
    """Return the first time between 0 and `STAY_S` from which on `is_true` holds, by bisection."""
    low, high = 0.0, STAY_S
    for _ in range(20):
        middle = (low + high) / 2
        low, high = (low, middle) if is_true(middle) else (middle, high)
    return high


def _rng(name: str) -> np.random.Generator:
    return np.random.default_rng(int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big"))
