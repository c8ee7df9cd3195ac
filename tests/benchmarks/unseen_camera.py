"""Measure camera-events on film and disturbances that its other benchmark does not have.

    PYTHONPATH=tests python -m benchmarks.unseen_camera --data DATA [--bundle B] [--json [FILE]] [--sheet FILE]

DATA is the folder with `tennis/` and `gestures/`. README.md describes the films, the disturbances and the figures.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import av
import cv2
import numpy as np
from support.unseen_disturbances import FORMS, MATERIALS, SHARES, STRENGTHS, Disturbed, Rng, cover, cropped

from engines.arrays import F64, U8
from engines.bundle import Bundle, ModelSpec
from engines.opening import open_engine
from engines.protocol import Engine
from streamclf.builtin_models import find_bundle
from streamclf.classifier.offline import file_chunks
from streamclf.commands.report.accuracy import wilson_interval
from training.builtin.camera_events import tampering
from training.builtin.camera_events.benchmark import write_excerpt

SEED: Final = 2026
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
UNDISTURBED_S, DISTURBED_S = 4.05, 2.45
MAX_FPS: Final = 16
COVERS_PER_FILM: Final = 6
BANK_SLOTS: Final = 32
"""More than the chunks of an excerpt."""
CRF: Final = (14, 19, 24)


@dataclass(frozen=True, slots=True, kw_only=True)
class Excerpt:
    """One excerpt with its label; `properties` names the form and strength, or the material and how it covers.

    `chunks`: (C, t, H, W, 3) uint8. `starts`: the first chunk of each window that counts.
    """

    film: str
    label: str
    properties: dict[str, str]
    chunks: U8
    starts: list[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """An excerpt's predictions: the best label of each window, and the probability of the excerpt's label."""

    film: str
    label: str
    properties: dict[str, str]
    predicted: list[str]
    probabilities: list[float]


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


def excerpts(data: Path, spec: ModelSpec) -> Iterator[Excerpt]:
    """Yield the undisturbed and the disturbed excerpts, film by film."""
    rng = np.random.default_rng(SEED)
    names = [*FIXED, *PLAIN, *HELD]
    covers = _shuffled(rng, len(names) * COVERS_PER_FILM, MATERIALS, (True, False), SHARES, (True, False))
    others = {label: _shuffled(rng, len(names), forms, STRENGTHS) for label, (_, forms) in FORMS.items()}
    for number, name in enumerate(names):
        path = data / f"{name}.mp4"
        if not path.is_file():
            raise SystemExit(f"{path}: no such file; --data is the folder with tennis/ and gestures/")
        rng = np.random.default_rng([SEED, number])
        film = read_film(path)
        if name in HELD:
            film = hold(film[0][0], 3.0, rng)
        of_film = covers[number * COVERS_PER_FILM :][:COVERS_PER_FILM]
        plan = [] if name in PLAIN else [(label, *forms[number]) for label, forms in others.items()]
        kind = "held picture" if name in HELD else "hand before a wall" if name in PLAIN else "film"
        yield from excerpts_of_film(name, kind, film, spec, rng, of_film, plan)


def _shuffled(rng: Rng, count: int, *axes: Any) -> list[tuple[Any, ...]]:
    """Return `count` combinations in random order; each occurs as often as any other, or once more."""
    every = list(itertools.product(*axes))
    rounds = [every[i] for _ in range(-(-count // len(every))) for i in rng.permutation(len(every))]
    return rounds[:count]


def excerpts_of_film(
    name: str,
    kind: str,
    film: tuple[U8, F64],
    spec: ModelSpec,
    rng: Rng,
    covers: Sequence[tuple[str, bool, str, bool]],
    plan: Sequence[tuple[str, str, str]],
) -> Iterator[Excerpt]:
    """Yield the excerpts of one film: undisturbed, covered and otherwise disturbed.

    `covers`: (material, in focus, share, coming). `plan`: (label, form, strength).
    """

    def excerpt(label: str, properties: dict[str, str], disturbed: Disturbed) -> Excerpt:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "excerpt.mkv"
            written = tampering.Excerpt(frames=disturbed.frames, times_s=disturbed.times_s)
            write_excerpt(path, written, int(rng.choice(CRF)), rate=15)
            chunks, starts = read_chunks(path, spec, disturbed.counts)
        return Excerpt(film=name, label=label, properties=properties, chunks=chunks, starts=starts)

    length_s = float(film[1][-1])
    draw = partial(part_of, *film)
    frames, times_s = draw(0.0, UNDISTURBED_S)
    every = Disturbed(frames=frames, times_s=times_s, counts=lambda _a, _b: True)
    yield excerpt("normal", {"kind": kind, "view": "whole"}, every)
    every = Disturbed(frames=cropped(frames), times_s=times_s, counts=every.counts)
    yield excerpt("normal", {"kind": kind, "view": "cropped"}, every)
    for material, in_focus, share, coming in covers:
        frames, times_s = draw(rng.uniform(0, length_s), DISTURBED_S)
        properties = {
            "material": material,
            "share": share,
            "focus": "in focus" if in_focus else "out of focus",
            "arrival": "coming" if coming else "lying still",
        }
        disturbed = cover(rng, frames, times_s, material, in_focus=in_focus, share=share, coming=coming)
        yield excerpt("covered", properties, disturbed)
    for label, form, strength in plan:
        frames, times_s = draw(rng.uniform(0, length_s), DISTURBED_S)
        disturbed = FORMS[label][0](rng, frames, times_s, form, strength)
        yield excerpt(label, {"form": form, "strength": strength}, disturbed)


def open_for(bundle: Bundle) -> Engine:
    """Open a bundle with one thread and a bank for an excerpt."""
    return open_engine(bundle, precision="fp32", max_batch=4, bank_slots=BANK_SLOTS, threads=1)


def judge(engine: Engine, found: Iterator[Excerpt]) -> list[Judged]:
    """Classify the windows of each excerpt. The engine's bank needs `BANK_SLOTS`."""
    labels, slots = list(engine.spec.labels), np.arange(BANK_SLOTS, dtype=np.int32)
    judged = []
    for excerpt in found:
        for first in range(0, len(excerpt.chunks), engine.max_batch):
            batch = excerpt.chunks[first : first + engine.max_batch]
            engine.encode(batch, slots[first : first + len(batch)])
        rows = [engine.classify(slots[None, first : first + engine.spec.chunks])[0].copy() for first in excerpt.starts]
        judged.append(
            Judged(
                film=excerpt.film,
                label=excerpt.label,
                properties=excerpt.properties,
                predicted=[labels[int(row.argmax())] for row in rows],
                probabilities=[round(float(row[labels.index(excerpt.label)]), 4) for row in rows],
            )
        )
    return judged


def recall(judged: Sequence[Judged]) -> dict[str, Any]:
    """Return the share of windows with the right label.

    The windows of an excerpt are alike. So the interval takes the number of excerpts as the number of trials.
    """
    windows = sum(len(each.predicted) for each in judged)
    right = sum(each.predicted.count(each.label) for each in judged)
    count = sum(bool(each.predicted) for each in judged)
    share = right / windows if windows else None
    interval = None if share is None else [round(bound, 4) for bound in wilson_interval(share * count, count)]
    return {
        "excerpts": count,
        "windows": windows,
        "right": right,
        "recall": None if share is None else round(share, 4),
        "interval": interval,
    }


GROUPS: Final = (
    ("normal", ("kind",)),
    ("normal", ("view",)),
    ("covered", ("material",)),
    ("covered", ("share",)),
    ("covered", ("focus",)),
    ("covered", ("arrival",)),
    ("covered", ("focus", "arrival")),
    ("covered", ("share", "arrival")),
    ("covered", ("material", "arrival")),
    ("covered", ("material", "focus")),
    *((label, (name,)) for label in FORMS for name in ("form", "strength")),
)
"""The parts by which recall is given: label and names of properties."""


def compute_figures(judged: Sequence[Judged], labels: Sequence[str]) -> dict[str, Any]:
    """Return recalls by label and by part, the balanced accuracy over labels, and the confusion of windows."""
    by_label = {label: recall([each for each in judged if each.label == label]) for label in labels}
    shares = [found["recall"] for found in by_label.values() if found["recall"] is not None]
    parts: dict[str, dict[str, Any]] = {}
    for label, names in GROUPS:
        mine = [each for each in judged if each.label == label]
        keys = dict.fromkeys(sorted(tuple(each.properties[name] for name in names) for each in mine))
        parts[f"{label} by {' and '.join(names)}"] = {
            ", ".join(key): recall([each for each in mine if tuple(each.properties[n] for n in names) == key])
            for key in keys
        }
    confusion = {label: Counter[str]() for label in labels}
    for each in judged:
        confusion[each.label].update(each.predicted)
    return {
        "labels": by_label,
        "false_alarms": round(1 - by_label["normal"]["recall"], 4) if by_label["normal"]["windows"] else None,
        "balanced_accuracy": round(float(np.mean(shares)), 4) if shares else None,
        "parts": parts,
        "confusion": {label: [counts[name] for name in labels] for label, counts in confusion.items()},
    }


def as_text(figures: dict[str, Any]) -> str:
    """Format the figures as tables."""

    def row(name: str, found: dict[str, Any]) -> str:
        if found["recall"] is None:
            return f"| {name} | 0 | 0 | - | - |"
        low, high = (100 * bound for bound in found["interval"])
        cells = f"{found['excerpts']} | {found['windows']} | {100 * found['recall']:.1f} % | {low:.0f} to {high:.0f} %"
        return f"| {name} | {cells} |"

    head = "| excerpts | windows | recall | 95 % interval |"
    lines = [f"| label {head}", *(row(label, found) for label, found in figures["labels"].items())]
    lines.append(f"false alarms {figures['false_alarms']}, balanced accuracy {figures['balanced_accuracy']}")
    for part, rows in figures["parts"].items():
        lines += ["", f"| {part} {head}", *(row(name, found) for name, found in rows.items())]
    labels = list(figures["confusion"])
    lines += ["", f"| windows: truth, predicted | {' | '.join(labels)} |"]
    lines += [f"| {label} | {' | '.join(map(str, counts))} |" for label, counts in figures["confusion"].items()]
    return "\n".join(lines)


def draw_sheet(found: Iterator[Excerpt], path: Path, *, copies: int = 2, columns: int = 4) -> None:
    """Write a picture with four frames of the first excerpts of each form or material, as the model sees them."""
    seen: Counter[tuple[str, ...]] = Counter()
    tiles: list[tuple[tuple[str, ...], U8]] = []
    for excerpt in found:
        names = ("kind", "material", "focus", "form")
        key = (excerpt.label, *(excerpt.properties[name] for name in names if name in excerpt.properties))
        if not excerpt.starts or seen[key] == copies:
            continue
        seen[key] += 1
        frames = excerpt.chunks[excerpt.starts[0] :].reshape(-1, *excerpt.chunks.shape[-3:])
        strip = np.hstack([frames[i] for i in np.linspace(0, len(frames) - 1, 4).round().astype(int)])
        text = " ".join([Path(excerpt.film).name, excerpt.label, *excerpt.properties.values()])
        strip = cv2.copyMakeBorder(cv2.resize(strip, None, fx=0.7, fy=0.7), 14, 2, 0, 6, cv2.BORDER_CONSTANT)
        cv2.putText(strip, text, (2, 11), cv2.FONT_HERSHEY_SIMPLEX, 0.38, (255, 255, 0), 1, cv2.LINE_AA)
        tiles.append((key, np.asarray(strip, np.uint8)))
    strips = [strip for _, strip in sorted(tiles, key=lambda item: item[0])]
    strips += [np.zeros_like(strips[0])] * (-len(strips) % columns)
    sheet = np.vstack([np.hstack(strips[i : i + columns]) for i in range(0, len(strips), columns)])
    cv2.imwrite(str(path), sheet[..., ::-1])


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the folder with tennis/ and gestures/")
    parser.add_argument("--bundle", default="camera-events", help="a bundle, by name or folder")
    parser.add_argument("--json", nargs="?", const="-", help="print JSON instead of tables, or write it to a file")
    parser.add_argument("--sheet", type=Path, help="draw a contact sheet, and classify nothing")
    options = parser.parse_args(arguments)
    cv2.setNumThreads(1)
    bundle = find_bundle(options.bundle)
    spec = bundle.spec
    found = excerpts(options.data, spec)
    if options.sheet:
        draw_sheet(found, options.sheet)
        return
    engine = open_for(bundle)
    judged = judge(engine, found)
    engine.close()
    figures = {"bundle": spec.id, "seed": SEED, **compute_figures(judged, spec.labels)}
    text = json.dumps({**figures, "excerpts": [each_as_dict(each) for each in judged]}, indent=1)
    if options.json == "-":
        print(text)
        return
    if options.json:
        Path(options.json).write_text(text + "\n")
    print(f"{spec.id}, seed {SEED}")
    print(as_text(figures))


def each_as_dict(judged: Judged) -> dict[str, Any]:
    """Return an excerpt's predictions for JSON."""
    return {
        "film": judged.film,
        "label": judged.label,
        **judged.properties,
        "predicted": judged.predicted,
        "probabilities": judged.probabilities,
    }


if __name__ == "__main__":
    main()
