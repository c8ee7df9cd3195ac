"""Make the excerpts of the benchmark `unseen_camera`: films, undisturbed, disturbed by each group, or changed."""

from __future__ import annotations

import itertools
import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import av
import numpy as np
from support.unseen.cover import SHARES, cover
from support.unseen.film import STRENGTHS, Disturbed, Group, Rng, always, cropped
from support.unseen.fourth_normal import FOURTH_NORMAL
from support.unseen.groups import GROUPS

from engines.arrays import F64, U8
from engines.bundle import ModelSpec
from streamclf.classifier.offline import file_chunks
from training.builtin.camera_events import tampering
from training.builtin.camera_events.benchmark import write_excerpt

FIXED: Final = (
    "tennis/b_slice/b_slice11",
    "tennis/b_slice/b_slice15",
    "tennis/b_slice/b_slice34",
    "tennis/b_slice/b_slice35",
    "tennis/b_slice/b_slice37",
    "tennis/b_slice/b_slice40",
    "tennis/b_slice/b_slice43",
    "tennis/b_slice/b_slice44",
    "tennis/b_volley/b_volley2",
    "tennis/b_volley/b_volley4",
    "tennis/b_volley/b_volley11",
    "tennis/b_volley/b_volley7",
    "tennis/b_volley/b_volley40",
    "tennis/backhand/backhand38",
    "tennis/f_volley/f_volley1",
    "tennis/f_volley/f_volley4",
    "tennis/forehand/forehand25",
    "tennis/forehand/forehand28",
    "tennis/forehand/forehand33",
    "tennis/forehand/forehand35",
    "tennis/forehand/forehand37",
    "tennis/serve/serve25",
    "tennis/smash/smash37",
    "tennis/smash/smash38",
)
"""Films whose camera is fixed: the median shift of blocks of the picture is at most 0.3 % of its width."""
PLAIN: Final = (
    "gestures/star/star_11",
    "gestures/up/up_11",
    "gestures/tick/tick_11",
)
"""Films of a hand before a plain wall. The camera drifts by up to 0.7 % of the width within a film, more than `FIXED`
allows, so the figures keep their false alarms apart. They are undisturbed or covered only, since motion or blur of a
plain wall is not beyond doubt."""
HELD: Final = (
    "tennis/b_slice/b_slice20",
    "tennis/b_slice/b_slice4",
    "tennis/b_volley/b_volley14",
    "tennis/b_volley/b_volley21",
    "tennis/backhand/backhand21",
    "tennis/backhand/backhand5",
    "tennis/f_volley/f_volley19",
    "tennis/f_volley/f_volley38",
    "tennis/f_volley/f_volley43",
    "tennis/forehand/forehand1",
    "tennis/forehand/forehand12",
    "tennis/forehand/forehand15",
    "tennis/forehand/forehand44",
    "tennis/serve/serve13",
    "tennis/serve/serve24",
    "tennis/serve/serve34",
    "tennis/serve/serve4",
    "tennis/smash/smash19",
    "tennis/smash/smash4",
    "tennis/smash/smash44",
    "gestures/other/other_05",
    "gestures/tick/tick_06",
    "gestures/up/up_04",
    "gestures/right/right_04",
    "gestures/right/right_07",
    "gestures/left/left_08",
    "gestures/left/left_09",
    "gestures/right/right_10",
    "gestures/tick/tick_12",
    "gestures/other/other_03",
    "gestures/circle/circle_02",
    "gestures/other/other_13",
)
"""Films whose camera moves. Their first picture is held, as a fixed camera sees a scene in which nothing moves."""
CHANGED: Final = "changed normal"
"""The group of the excerpts that `FOURTH_NORMAL` changes. The figures of `GROUPS` leave them out."""
CHANGED_SEED, CHANGES_PER_FILM = 12029, 3
UNDISTURBED_S, DISTURBED_S = 4.05, 2.45
MAX_FPS: Final = 16
CRF: Final = (14, 19, 24)
Cover = tuple[str, bool, str, bool]
"""Material, in focus, share, coming."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Excerpt:
    """One excerpt with its label; `properties` names the group, and the form and strength, or how a material covers.

    `chunks`: (C, t, H, W, 3) uint8. `starts`: the first chunk of each window that counts.
    """

    film: str
    label: str
    properties: dict[str, str]
    chunks: U8
    starts: list[int]


def read_film(path: Path) -> tuple[U8, F64]:
    """Return the film's frames (F, H, W, 3) RGB and times (F,) from 0, thinned to at most `MAX_FPS`."""
    frames, times = [], []
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            if not times or frame.time - times[-1] >= 1 / MAX_FPS - 1e-6:
                frames.append(frame.to_ndarray(format="rgb24"))
                times.append(frame.time)
    return np.stack(frames).astype(np.uint8), np.array(times) - times[0]


def hold(frame: U8, seconds: float, rng: Rng) -> tuple[U8, F64]:
    """Return a film of one picture (H, W, 3): 15 fps, with a sensor's noise and a small drift of the exposure."""
    times = np.arange(int(seconds * 15)) / 15
    sigma, drift = rng.uniform(0.7, 2.5), 0.01 * np.sin(times * rng.uniform(1, 3))
    film = [frame * (1 + gain) + rng.normal(0, sigma, frame.shape) for gain in drift]
    return np.clip(np.stack(film), 0, 255).astype(np.uint8), times


def part_of(frames: U8, times_s: F64, start_s: float, seconds: float) -> tuple[U8, F64]:
    """Return a part of a film that is played forwards and backwards again and again, with times from 0."""
    step_s = float(np.median(np.diff(times_s)))
    count = math.ceil((start_s + seconds) / step_s) + 2 * len(frames)
    there_and_back = np.r_[np.arange(len(frames)), np.arange(len(frames) - 2, 0, -1)]
    order = np.resize(there_and_back, count)
    at = np.r_[0, np.cumsum(np.abs(np.diff(times_s[order])))]
    chosen = (at >= start_s) & (at < start_s + seconds)
    return frames[order[chosen]], at[chosen] - at[chosen][0]


def read_chunks(path: Path, spec: ModelSpec, counts: Callable[[float, float], bool]) -> tuple[U8, list[int]]:
    """Return a film's chunks (C, t, H, W, 3), sampled as the service does, and the starts of the windows that count.

    A window begins with every chunk. No window spans a gap.
    """
    with closing(file_chunks(spec, path)) as found:
        chunks = list(found)
    starts = []
    for first in range(len(chunks) - spec.chunks + 1):
        begin, end = chunks[first][0], chunks[first + spec.chunks - 1][0]
        start_s = begin.start_pts_ns / 1e9
        if begin.segment == end.segment and counts(start_s, start_s + spec.window_s):
            starts.append(first)
    return np.stack([pixels for _, pixels in chunks]), starts


def excerpts(data: Path, spec: ModelSpec, groups: Mapping[str, Group] = GROUPS) -> Iterator[Excerpt]:
    """Yield the undisturbed, the disturbed and the changed excerpts, film by film. `groups` contains the first."""
    names = [*FIXED, *PLAIN, *HELD]
    changes = _shuffled(np.random.default_rng(CHANGED_SEED), len(names) * CHANGES_PER_FILM, FOURTH_NORMAL)
    plans = {name: _plan(group, len(names)) for name, group in groups.items()}
    for number, name in enumerate(names):
        path = data / f"{name}.mp4"
        if not path.is_file():
            raise SystemExit(f"{path}: no such file; --data is the folder with tennis/ and gestures/")
        rngs = {name: np.random.default_rng([group.seed, number]) for name, group in groups.items()}
        film = read_film(path)
        if name in HELD:
            film = hold(film[0][0], 3.0, rngs["first"])
        kind = "held picture" if name in HELD else "hand before a wall" if name in PLAIN else "film"
        yield from undisturbed(name, kind, film, spec, rngs["first"])
        for group, (covers, others) in plans.items():
            plan = () if name in PLAIN else others[number]
            yield from disturbed(name, groups[group], film, spec, rngs[group], covers[number], plan)
        if name not in PLAIN:
            mine = [change for (change,) in changes[number * CHANGES_PER_FILM :][:CHANGES_PER_FILM]]
            yield from changed(name, kind, film, spec, np.random.default_rng([CHANGED_SEED, number]), mine)


def _plan(group: Group, films: int) -> tuple[list[list[Cover]], list[list[tuple[str, str, str]]]]:
    """Return the covers of each film, and the label, form and strength of each other excerpt of each film."""
    rng, each = np.random.default_rng(group.seed), group.covers_per_film
    ways = ((True, False), SHARES, (True, False))
    if films * each < len(group.materials) * math.prod(map(len, ways)):  # still, each material is to occur
        materials = _shuffled(rng, films * each, group.materials)
        covers = [(*one, *way) for one, way in zip(materials, _shuffled(rng, films * each, *ways), strict=True)]
    else:
        covers = _shuffled(rng, films * each, group.materials, *ways)
    chosen = {label: _shuffled(rng, films, forms, STRENGTHS) for label, (_, forms) in group.forms.items()}
    others = [[(label, *found[number]) for label, found in chosen.items()] for number in range(films)]
    return [covers[number * each :][:each] for number in range(films)], others


def _shuffled(rng: Rng, count: int, *axes: Any) -> list[tuple[Any, ...]]:
    """Return `count` combinations in random order; each occurs as often as any other, or once more."""
    every = list(itertools.product(*axes))
    rounds = [every[i] for _ in range(-(-count // len(every))) for i in rng.permutation(len(every))]
    return rounds[:count]


def undisturbed(name: str, kind: str, film: tuple[U8, F64], spec: ModelSpec, rng: Rng) -> Iterator[Excerpt]:
    """Yield a film's undisturbed excerpts: whole and cropped."""
    frames, times_s = part_of(*film, 0.0, UNDISTURBED_S)
    for view, seen in (("whole", frames), ("cropped", cropped(frames))):
        found = Disturbed(frames=seen, times_s=times_s, counts=always)
        yield _excerpt(name, "normal", {"kind": kind, "view": view}, found, spec, rng)


def changed(
    name: str, scene: str, film: tuple[U8, F64], spec: ModelSpec, rng: Rng, changes: Sequence[str]
) -> Iterator[Excerpt]:
    """Yield a film's excerpts with changes of `FOURTH_NORMAL`, which leave them `normal`."""
    for change in changes:
        part = part_of(*film, rng.uniform(0, float(film[1][-1])), UNDISTURBED_S)
        properties = {"group": CHANGED, "kind": change, "scene": scene}
        yield _excerpt(name, "normal", properties, FOURTH_NORMAL[change](rng, *part), spec, rng)


def disturbed(
    name: str,
    group: Group,
    film: tuple[U8, F64],
    spec: ModelSpec,
    rng: Rng,
    covers: Sequence[Cover],
    plan: Sequence[tuple[str, str, str]],
) -> Iterator[Excerpt]:
    """Yield a film's excerpts with the covers and forms of a group. `plan`: (label, form, strength)."""

    def draw() -> tuple[U8, F64]:
        return part_of(*film, rng.uniform(0, float(film[1][-1])), DISTURBED_S)

    for covering, in_focus, share, coming in covers:
        material = group.materials[covering]
        properties = {
            "group": group.name,
            "material": material.source or covering,
            "share": share,
            "focus": "in focus" if in_focus else "out of focus",
            "arrival": "coming" if coming else "lying still",
            **({"photograph": covering} if material.source else {}),
        }
        found = cover(rng, *draw(), material, in_focus=in_focus, share=share, coming=coming)
        yield _excerpt(name, "covered", properties, found, spec, rng)
    for label, form, strength in plan:
        found = group.forms[label][0](rng, *draw(), form, strength)
        yield _excerpt(name, label, {"group": group.name, "form": form, "strength": strength}, found, spec, rng)


def _excerpt(name: str, label: str, properties: dict[str, str], found: Disturbed, spec: ModelSpec, rng: Rng) -> Excerpt:
    """Write a disturbed film, and read its chunks as the service does."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "excerpt.mkv"
        written = tampering.Excerpt(frames=found.frames, times_s=found.times_s)
        write_excerpt(path, written, int(rng.choice(CRF)), rate=15)
        chunks, starts = read_chunks(path, spec, found.counts)
    return Excerpt(film=name, label=label, properties=properties, chunks=chunks, starts=starts)
