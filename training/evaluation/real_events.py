"""Measure camera-events on film in which something really happens to a camera: no disturbance is drawn or composited.

There is little such film, so the figures name each stretch of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from engines.protocol import Engine
from streamclf.classifier.window_classifier import WindowResult
from streamclf.config.picture_area import WHOLE, PictureArea
from streamclf.config.picture_shapes import check_rectangle
from training.builtin.camera_events import LABELS
from training.data.csv_columns import plain_name
from training.data.csv_lists import read_records
from training.data.file_names import listed_path
from training.errors import DataError
from training.evaluation.live import PlayedFilm, default_actions, play_film, with_scene_lost
from training.evaluation.live_events import FilmResult, TrueEvent, compare_labels_and_scene
from training.evaluation.live_figures import live_figures

FOLDER: Final = "real-events"
"""The folder that `python -m training download real-events` writes."""
LIST: Final = "films.csv"
COLUMNS: Final = ("path", "label", "start_s", "end_s", "arrives_s", "region")
NORMAL: Final = LABELS[0]
KNOWN_AFTER_S: Final = 7.0
"""The scene of a film is known from this second on: the memory has stretches that end before the present window."""
LEAST_SHARE: Final = 0.55
"""A window counts for a state if more than this share of it shows the state."""
BRIEF: Final = ("moved", "flashing")
"""Labels of windows that contain a whole event, however short it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FilmPart:
    """A part of a film with one label. `arrives_s`: when that which covers the lens comes into the picture."""

    label: str
    start_s: float
    end_s: float
    arrives_s: float

    def counts(self, start_s: float, end_s: float) -> bool:
        """Tell whether a window from `start_s` to `end_s` has this stretch's label."""
        if self.label == NORMAL:
            return self.start_s <= start_s and end_s <= self.end_s
        if self.label in BRIEF and start_s <= self.start_s and self.end_s <= end_s:
            return True
        return min(end_s, self.end_s) - max(start_s, self.start_s) > LEAST_SHARE * (end_s - start_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class RealFilm:
    """A film, the part of its picture that a camera made, and its stretches in order of time. Other time is unknown."""

    path: Path
    area: PictureArea
    stretches: tuple[FilmPart, ...]


@dataclass(slots=True, kw_only=True)
class PartResult:
    """The predictions of the windows of one stretch. `coming`: those that begin before it; `lying`: all others."""

    film: str
    stretch: FilmPart
    coming: Counter[str] = field(default_factory=Counter)
    lying: Counter[str] = field(default_factory=Counter)


def read_real_films(folder: Path) -> list[RealFilm]:
    """Read the list of `folder`: a row for each stretch. Raises `DataError` that names the line."""
    path = folder / LIST
    if not path.is_file():
        raise DataError(f"{path}: no such file; `python -m training download {FOLDER}` gets it with its films")
    header, records = read_records(path)
    names = [plain_name(name) for name in header]
    if missing := [column for column in COLUMNS if column not in names]:
        raise DataError(f"{path}: no column {missing[0]!r}; its columns are {', '.join(COLUMNS)}")
    found: dict[tuple[Path, PictureArea], list[FilmPart]] = {}
    for line, fields in records:
        row = dict(zip(names, (value.strip() for value in fields), strict=True))
        where = f"{path}, line {line}"
        if row["label"] not in LABELS:
            raise DataError(f"{where}: label {row['label']!r}; write one of {', '.join(LABELS)}")
        try:
            start_s, end_s = float(row["start_s"]), float(row["end_s"])
            arrives_s = float(row["arrives_s"] or start_s)
            region = [float(number) for number in row["region"].split()]
            area = PictureArea(region=check_rectangle(region)) if region else WHOLE
        except ValueError as error:
            raise DataError(f"{where}: {error}") from error
        if not 0 <= arrives_s <= start_s < end_s:
            raise DataError(
                f"{where}: arrives_s {arrives_s:g}, start_s {start_s:g}, end_s {end_s:g}; write 0 or more, in this "
                "order"
            )
        film = folder / listed_path(folder, row["path"])
        stretch = FilmPart(label=row["label"], start_s=start_s, end_s=end_s, arrives_s=arrives_s)
        found.setdefault((film, area), []).append(stretch)
    if not found:
        raise DataError(f"{path}: lists no film")
    return [
        RealFilm(path=film, area=area, stretches=tuple(sorted(stretches, key=lambda each: each.start_s)))
        for (film, area), stretches in found.items()
    ]


def measure_real_events(engine: Engine, films: Sequence[RealFilm]) -> dict[str, Any]:
    """Return the recall of the windows of each label, the figures of the actions, and all stretches.

    The engine's bank needs `live_bank_slots`. Raises `DataError` if a film cannot be read.
    """
    actions = with_scene_lost(default_actions(engine.spec))
    stretches, played = list[PartResult](), list[tuple[FilmResult, FilmResult, int, float]]()
    for film in films:
        results = [PartResult(film=film.path.name, stretch=stretch) for stretch in film.stretches]

        def on_window(window: WindowResult, results: list[PartResult] = results) -> None:
            predicted = engine.spec.labels[int(window.probabilities.argmax())]
            for result in results:
                if result.stretch.counts(window.start_s, window.end_s):
                    part = result.coming if window.start_s < result.stretch.start_s else result.lying
                    part[predicted] += 1

        run = play_film(engine, film.path, actions, on_window=on_window, area=film.area)
        events = [
            TrueEvent(label=each.label, start_s=each.arrives_s, end_s=each.end_s)
            for each in film.stretches
            if each.label != NORMAL
        ]
        stretches += results
        played.append((*compare_labels_and_scene(run, events), *_false_starts(run, film)))
    return {
        "films": len(films),
        "windows": {label: _windows_of(label, stretches) for label in LABELS},
        "events": _events([labels for labels, _, _, _ in played], list(actions.labels)),
        "scene_lost": _scene_lost([scene for _, scene, _, _ in played], [film.stretches for film in films]),
        "false_starts": {
            "count": sum(count for _, _, count, _ in played),
            "hours": round(sum(seconds for _, _, _, seconds in played) / 3600, 4),
        },
        "stretches": [
            {
                "film": each.film,
                "label": each.stretch.label,
                "start_s": each.stretch.start_s,
                "end_s": each.stretch.end_s,
                "coming": dict(each.coming.most_common()),
                "lying": dict(each.lying.most_common()),
            }
            for each in stretches
        ],
    }


def _false_starts(run: PlayedFilm, film: RealFilm) -> tuple[int, float]:
    """Return the number of actions that start while the film is known to be normal, and the seconds of that time."""
    normal = [each for each in film.stretches if each.label == NORMAL]
    starts = sum(any(each.start_s <= action.start_s <= each.end_s for each in normal) for action in run.runs)
    return starts, sum(each.end_s - each.start_s for each in normal)


def _windows_of(label: str, results: Sequence[PartResult]) -> dict[str, Any]:
    """Return counts of windows: all, right ones, and, for a state, those that begin before it and those in it."""
    chosen = [each for each in results if each.stretch.label == label]
    parts = {"coming": [each.coming for each in chosen], "lying": [each.lying for each in chosen]}
    counts = {
        name: {
            "windows": sum(part.total() for part in part_of_each),
            "right": sum(part[label] for part in part_of_each),
        }
        for name, part_of_each in parts.items()
    }
    return {
        "films": len({each.film for each in chosen}),
        "windows": sum(each["windows"] for each in counts.values()),
        "right": sum(each["right"] for each in counts.values()),
        **counts,
    }


def _events(results: Sequence[FilmResult], labels: Sequence[str]) -> dict[str, Any]:
    """Return the figures of the events; without false starts, because the time between the stretches is unknown."""
    figures = live_figures(results, labels)
    kept = ("events", "right", "right_and_wrong", "only_wrong", "none", "seconds", "share_of_time")
    by_label = {label: {key: each[key] for key in kept} for label, each in figures["labels"].items() if each["events"]}
    return {**{key: figures[key] for key in kept}, "labels": by_label}


def _scene_lost(results: Sequence[FilmResult], stretches: Sequence[Sequence[FilmPart]]) -> dict[str, Any]:
    """Count for each label the events, those before which the scene was known, and those that `scene_lost` reported."""
    counts: dict[str, Counter[str]] = {}
    for result, parts in zip(results, stretches, strict=True):
        events = [each for each in parts if each.label != NORMAL]
        for stretch, event in zip(events, result.events, strict=True):
            count = counts.setdefault(stretch.label, Counter())
            is_known = stretch.arrives_s >= KNOWN_AFTER_S
            has_started = event.start_s is not None
            count.update(
                events=1, known=int(is_known), started=int(has_started), started_of_known=int(is_known and has_started)
            )
    return {label: dict(count) for label, count in counts.items()}


def real_events_text(result: dict[str, Any]) -> str:
    """Format the figures as text."""
    lines = [f"{'windows':<12}{'films':>6}{'windows':>9}{'right':>7}{'coming':>12}{'lying':>12}"]
    for label, each in result["windows"].items():
        if each["windows"]:
            parts = (f"{each[part]['right']}/{each[part]['windows']}" for part in ("coming", "lying"))
            lines.append(
                f"{label:<12}{each['films']:>6}{each['windows']:>9}{each['right']:>7}"
                + "".join(f"{part:>12}" for part in parts)
            )
    lines.append(f"{'actions':<12}{'events':>6}{'right':>9}{'+wrong':>7}{'only wrong':>12}{'none':>12}")
    for label, each in [*result["events"]["labels"].items(), ("all", result["events"])]:
        lines.append(
            f"{label:<12}{each['events']:>6}{each['right']:>9}{each['right_and_wrong']:>7}{each['only_wrong']:>12}"
            f"{each['none']:>12}"
        )
    lines.append(f"{'scene_lost':<12}{'events':>6}{'started':>9}{'scene known':>13}{'started':>9}")
    for label, each in result["scene_lost"].items():
        lines.append(
            f"{label:<12}{each['events']:>6}{each['started']:>9}{each['known']:>13}{each['started_of_known']:>9}"
        )
    false = result["false_starts"]
    lines.append(
        f"false starts in film of which it is known that nothing happens: {false['count']} in {false['hours']:.2f} h"
    )
    for each in result["stretches"]:
        lines.append(f"{each['film']}: {each['label']} from {each['start_s']:g} to {each['end_s']:g} s")
        lines += [
            f"  {part:<7} " + ", ".join(f"{count} {label}" for label, count in each[part].items())
            for part in ("coming", "lying")
            if each[part]
        ]
    return "\n".join(lines)
