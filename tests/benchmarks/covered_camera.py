"""Measure how long the action `covered` lasts: `PYTHONPATH=tests python -m benchmarks.covered_camera FILM...`.

Each film of a fixed camera is played, covered for the seconds of `--covered`, and played again, once for each material,
through ring, classifier and actions as a live stream is. Without a hold, the same predictions give the actions by the
probability alone. Then come covers that slide in slowly, covers that lie on the lens from the start, and cameras that
somebody turns to another scene while they are covered. The other films show what a hold costs: a hand that wipes over
the lens, and changes of the scene for good.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final

import numpy as np
from support.covers import MATERIALS, cover_frames
from support.serving import serve_engines

from engines.arrays import U8
from engines.opening import open_engine
from engines.protocol import SharingEngine
from streamclf.builtin_models import find_bundle
from streamclf.classifier.action_tracker import ActionTracker
from streamclf.classifier.classifier import Classifier
from streamclf.classifier.feed import Feed, bank_slots, ring_slots
from streamclf.classifier.offline import file_chunks
from streamclf.classifier.scene_check import scene_slots
from streamclf.config.actions import ActionConfig, StreamActions
from streamclf.config.classify import HeadSettings, StreamSettings
from streamclf.events.drafts import Draft
from streamclf.windows.ring import RingReader, RingWriter, create_ring
from streamclf.windows.sampling import ChunkMeta

LABEL: Final = "covered"
AFTER_S: Final = 8.0
SLOW_S: Final = 12.0
"""Seconds in which a slow cover slides over the picture."""
SLOWLY, FROM_START, TURNED = KINDS = ("covered slowly", "covered from the start", "turned while covered")
MAX_FILM_S: Final = 120.0
BEFORE_S: Final = 4.0
CHANGED_S: Final = 15.0
"""Film before and after a change that is no lasting cover."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of one covered film. Values are None if no action began, or if none ran at the removal.

    `lasted`: the share of the time from the first action's start to the removal in which an action ran. `late_s`: the
    seconds for which actions ran that began after the removal.
    """

    covered: float
    lasted: float | None
    ends_after_s: float | None
    late_s: float | None
    held_until_end: bool


class Posted:
    """Record the posted drafts, in place of the link to the hub."""

    def __init__(self) -> None:
        self.drafts: list[Draft] = []

    def post_all(self, drafts: Sequence[Draft]) -> None:
        """Record drafts."""
        self.drafts += drafts

    def of(self, kind: str) -> list[dict[str, Any]]:
        """Return the bodies of one type of event."""
        return [dict(draft.body) for draft in self.drafts if draft.type == kind]


class Player:
    """Play frames at the model's rate and size through ring, feed and classifier."""

    def __init__(self, engine: SharingEngine, actions: StreamActions) -> None:
        spec = self._spec = engine.spec
        self.posted = Posted()
        fd = create_ring(ring_slots(spec), spec.chunk_shape)
        self._writer = RingWriter(fd)
        self.feed = Feed(
            stream="camera",
            reader=RingReader(fd),
            wake_fd=0,
            spec=spec,
            settings=StreamSettings(),
            index=0,
            heads={"": HeadSettings(actions=actions)},
        )
        os.close(fd)
        serving = serve_engines({"": engine})
        self.classifier = Classifier(serving, [self.feed], self.posted, scene_slot=bank_slots(spec))  # type: ignore[arg-type]
        self._index = 0

    def play(self, frames: U8) -> None:
        """Play frames (F, H, W, 3)."""
        t, chunk_ns = self._spec.frames_per_chunk, round(self._spec.chunk_s * 1e9)
        for chunk in frames[: len(frames) // t * t].reshape(-1, t, *frames.shape[1:]):
            start_ns = self._index * chunk_ns
            self._writer.begin()[:] = chunk
            self._writer.commit(
                ChunkMeta(
                    segment=1,
                    index=self._index,
                    start_pts_ns=start_ns,
                    end_pts_ns=start_ns + chunk_ns,
                    captured_ns=start_ns,
                    frames=t,
                    duplicates=0,
                    corrupt=0,
                )
            )
            self._index += 1
            while self.classifier.step():
                pass


def spans(changes: Sequence[dict[str, Any]], end_s: float) -> list[tuple[float, float]]:
    """Return (start, end) of the actions of `LABEL`; a start counts when it is reported."""
    found: list[tuple[float, float]] = []
    begun: float | None = None
    for change in changes:
        if change["label"] != LABEL:
            continue
        if change["phase"] == "start":
            begun = change["at_s"]
        elif change["phase"] == "end" and begun is not None:
            found.append((begun, change["at_s"]))
            begun = None
    return found if begun is None else [*found, (begun, end_s)]


def without_hold(predictions: Sequence[dict[str, Any]], actions: StreamActions) -> list[dict[str, Any]]:
    """Return the changes of actions that the same predictions give without a hold."""
    tracker = ActionTracker.of(actions)
    changes = []
    for body in predictions:
        window = body["window"]
        changes += tracker.update(dict(body["top"]), window["start_s"], window["end_s"], window["segment"])
    return [change.body() for change in changes]


def judge(found: Sequence[tuple[float, float]], covered_s: tuple[float, float], end_s: float) -> Outcome:
    """Compare the actions with the time in which the camera was wholly covered. Slow covers may begin one earlier."""
    begin_s, until_s = covered_s
    overlap = sum(max(0.0, min(b, until_s) - max(a, begin_s)) for a, b in found)
    last = [b for a, b in found if a < until_s <= b]
    late = [b - a for a, b in found if a >= until_s]
    first_s = min((max(a, begin_s) for a, b in found if a < until_s and b > begin_s), default=None)
    return Outcome(
        covered=overlap / (until_s - begin_s),
        lasted=None if first_s is None else overlap / (until_s - first_s),
        ends_after_s=last[0] - until_s if last else None,
        late_s=sum(late) if late else None,
        held_until_end=any(b >= end_s for _, b in found),
    )


def read_frames(engine: SharingEngine, film: Path, covered_s: float) -> U8:
    """Return the frames (F, H, W, 3) of the beginning of a film; a short film is repeated backwards and forwards."""
    spec = engine.spec
    with closing(file_chunks(spec, film)) as chunks:
        found = np.concatenate([pixels for _, pixels in islice(chunks, int(MAX_FILM_S / spec.chunk_s))])
    least = int((5 + SLOW_S + covered_s + AFTER_S) * spec.fps) + 1
    while len(found) < least:
        found = np.concatenate([found, found[-2:0:-1]])
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the shares and seconds by material."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("films", nargs="+", type=Path)
    parser.add_argument("--bundle", default="camera-events")
    parser.add_argument("--repeats", type=int, default=2, help="films of each material and camera")
    parser.add_argument("--covered", type=float, default=10.0, help="seconds for which the camera is covered")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    bundle = find_bundle(options.bundle)
    slots = bank_slots(bundle.spec) + scene_slots(bundle.spec)
    engine = open_engine(bundle, precision="fp32", bank_slots=max(slots, 16), threads=1)
    action = ActionConfig()
    if (threshold := bundle.spec.thresholds.get(LABEL)) is not None:
        action = action.with_threshold(threshold)
    plain = StreamActions(labels={LABEL: action})
    films = {film: read_frames(engine, film, options.covered) for film in options.films}
    rng = np.random.default_rng(options.seed)
    print(f"{bundle.spec.id}: {len(films)} films, {options.repeats} times each, covered for {options.covered:g} s")
    print(
        "material | began | alone: share of the covered time | of that after the start | s to the end (most) "
        "| held: share | after the start | s to the end (most) | never ended "
        "| began after the removal: alone, s (most), held, s (most)"
    )
    for material in MATERIALS:
        rows = [
            _judge_cover(engine, frames, material, plain, rng, options.covered)
            for frames in films.values()
            for _ in range(options.repeats)
        ]
        print(f"{material} | {_line(rows)}", flush=True)
    every = list(films.values())
    kinds: dict[str, list[tuple[Outcome, ...]]] = {name: [] for name in KINDS}
    for number, frames in enumerate(every):
        for material in MATERIALS:
            for name, rows in kinds.items():
                other = every[(number + 1) % len(every)] if name == TURNED else None
                rows.append(_judge_cover(engine, frames, material, plain, rng, options.covered, kind=name, after=other))
    for name, rows in kinds.items():
        print(f"{name} | {_line(rows)}", flush=True)
    for name, change in _changes(int(engine.spec.fps)).items():
        found = []
        for number, frames in enumerate(every):
            for _ in range(options.repeats):
                film = _part(frames, int((BEFORE_S + CHANGED_S) * engine.spec.fps), rng)
                found.append(_play(engine, change(film, every[(number + 1) % len(every)], rng), plain))
        print(f"{name}: {_seconds(found)}", flush=True)
    for film_path, frames in films.items():
        seconds = len(frames) / engine.spec.fps
        print(f"{film_path.name}, {seconds:.0f} s uncovered: {_seconds([_play(engine, frames, plain)])}", flush=True)


def _play(engine: SharingEngine, film: U8, plain: StreamActions) -> tuple[list[tuple[float, float]], ...]:
    """Play a film, and return the actions by the probability alone, and with a hold."""
    player = Player(engine, plain.with_hold([LABEL]))
    player.play(film)
    end_s = len(film) / engine.spec.fps
    alone = without_hold(player.posted.of("prediction"), plain)
    return spans(alone, end_s), spans(player.posted.of("action"), end_s)


def _part(frames: U8, length: int, rng: np.random.Generator) -> U8:
    first = int(rng.integers(0, len(frames) - length + 1))
    return frames[first : first + length]


def _judge_cover(
    engine: SharingEngine,
    frames: U8,
    material: str,
    plain: StreamActions,
    rng: np.random.Generator,
    covered_s: float,
    *,
    kind: str = "",
    after: U8 | None = None,
) -> tuple[Outcome, ...]:
    """Cover a part of `frames` (F, H, W, 3) and judge the actions without and with a hold.

    `kind`: one of `KINDS`, or empty for a usual cover. `after`: frames of another scene that follow the cover.
    """
    fps = engine.spec.fps
    slow = int(SLOW_S * fps) * (kind == SLOWLY)
    begin = 0 if kind == FROM_START else slow + int(rng.uniform(3, 5) * fps)
    stop = begin + int(covered_s * fps)
    film = _part(frames, stop + int(AFTER_S * fps), rng)
    if after is not None:
        film = np.concatenate([film[: stop - 1], _part(after, int(AFTER_S * fps), rng)])
    ramp, noise = int(rng.integers(1, 6)), float(rng.uniform(0.5, 4))
    if slow:  # the cover comes slowly, and goes within one frame
        free = film[stop:]
        film = cover_frames(film, material, begin, len(film), rng, ramp=slow, noise=noise)
        film[stop:] = free
    else:
        film = cover_frames(film, material, begin - ramp * (kind == FROM_START), stop, rng, ramp=ramp, noise=noise)
    cover_s = begin / fps, stop / fps
    return tuple(judge(found, cover_s, len(film) / fps) for found in _play(engine, film, plain))


def _changes(fps: int) -> dict[str, Callable[[U8, U8, np.random.Generator], U8]]:
    """Return, by name, functions that change a film after `BEFORE_S`; their second argument is another film."""
    begin = int(BEFORE_S * fps)

    def wipe(seconds: float) -> Callable[[U8, U8, np.random.Generator], U8]:
        return lambda film, _, rng: cover_frames(film, "hand", begin, begin + int(seconds * fps), rng)

    def lamp(factor: float) -> Callable[[U8, U8, np.random.Generator], U8]:
        return lambda film, _, __: np.concatenate(
            [film[:begin], np.clip(film[begin:] * factor, 0, 255).astype(np.uint8)]
        )

    return {
        "hand for 1 s": wipe(1),
        "hand for 2 s": wipe(2),
        "lamp off": lamp(0.35),
        "lamp on": lamp(1.6),
        "cut to another film": lambda film, other, _: np.concatenate([film[:begin], other[: len(film) - begin]]),
    }


def _seconds(found: Sequence[tuple[list[tuple[float, float]], ...]]) -> str:
    begun = [[sum(b - a for a, b in each) for each in kinds] for kinds in found if kinds[1]]
    if not begun:
        return f"no action in {len(found)} films"
    alone_s, held_s = np.mean(begun, axis=0)
    longest_s = max(row[1] for row in begun)
    return (
        f"an action begins in {len(begun)} of {len(found)} films; it runs for {alone_s:.1f} s alone, "
        f"{held_s:.1f} s held ({longest_s:.1f} s at most)"
    )


def _line(rows: Sequence[tuple[Outcome, ...]]) -> str:
    begun = [row for row in rows if row[1].lasted is not None]
    cells = [f"{len(begun)} of {len(rows)}"]
    for kind in (0, 1):
        lasted = [share for row in rows if (share := row[kind].lasted) is not None]
        ends = [end_s for row in rows if (end_s := row[kind].ends_after_s) is not None]
        cells.append(f"{np.mean([row[kind].covered for row in rows]):.0%}")
        cells.append(f"{np.mean(lasted):.0%}" if lasted else "-")
        cells.append(f"{np.mean(ends):.1f} ({max(ends):.1f})" if ends else "-")
    cells.append(f"{sum(row[1].held_until_end for row in rows)}")
    for kind in (0, 1):
        late = [late_s for row in rows if (late_s := row[kind].late_s) is not None]
        cells.append(f"{len(late)}: {np.mean(late):.1f} ({max(late):.1f})" if late else "0")
    return " | ".join(cells)


if __name__ == "__main__":
    main()
