"""Measure camera-events live: on films with known events, and on film of fixed cameras in which nothing happens."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from itertools import tee
from pathlib import Path
from typing import Any, Final, TypeAlias

from engines.protocol import Engine
from streamclf.config.actions import StreamActions
from streamclf.sources.array import ArraySource, film_frames
from training.builtin.camera_events.benchmark import QUALITIES, RealFilm, write_excerpt
from training.builtin.camera_events.live_films import duration_s, event_films, fixed_films, ordinary_films
from training.evaluation.live import default_actions, play_film, play_source, with_scene_lost
from training.evaluation.live_events import FilmResult, TrueEvent, compare_labels_and_scene
from training.evaluation.live_figures import live_figures, live_text, rate_text

EACH: Final = 12
"""Films with each label, for each half of the benchmark's films."""
HALVES: Final = ("held-out", "tuning")
_Compared: TypeAlias = tuple[FilmResult, FilmResult]
"""A film's events with the actions of labels, and with `scene_lost`."""


def measure_camera_events(
    engine: Engine, films: Sequence[RealFilm], actions: StreamActions | None = None, *, each: int = EACH
) -> dict[str, Any]:
    """Return the figures of each half, and of both: of films with one event each, and of film without events.

    The engine's bank needs `live_bank_slots`. Raises `DataError` if a film cannot be read.
    """
    actions = actions or default_actions(engine.spec)
    played_actions = with_scene_lost(actions)
    events, ordinary = ({half: list[_Compared]() for half in HALVES} for _ in range(2))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "event.mkv"
        for number, film in enumerate(event_films(films, each)):
            write_excerpt(path, film.excerpt, QUALITIES[number % len(QUALITIES)])
            event = TrueEvent(label=film.label, start_s=film.start_s, end_s=film.end_s)
            played = play_film(engine, path, played_actions)
            events[film.source.half].append(compare_labels_and_scene(played, [event]))
    for source, frames in ordinary_films(films):
        images, times = tee(frames)
        array = ArraySource(film_frames((image for _, image in images), (time_s for time_s, _ in times)))
        ordinary[source.half].append(compare_labels_and_scene(play_source(engine, array, played_actions), []))
    labels = list(actions.labels)
    seconds = {half: sum(duration_s(film) for film in fixed_films(films) if film.half == half) for half in HALVES}
    return {
        half: {
            "events": live_figures([of_labels for of_labels, _ in _of(events, half)], labels),
            "ordinary": live_figures([of_labels for of_labels, _ in _of(ordinary, half)], labels),
            "scene_lost": _scene_figures(_of(events, half), _of(ordinary, half)),
            "distinct_hours": round(sum(seconds[each] for each in _halves(half)) / 3600, 4),
        }
        for half in (*HALVES, "all")
    }


def _scene_figures(events: Sequence[_Compared], ordinary: Sequence[_Compared]) -> dict[str, Any]:
    """Return for each label the events and those of them in which `scene_lost` started, and its false starts."""
    pairs = [
        (of_label, of_scene)
        for labels, scene in events
        for of_label, of_scene in zip(labels.events, scene.events, strict=True)
    ]
    return {
        "labels": {
            label: {
                "events": sum(of_label.event.label == label for of_label, _ in pairs),
                "started": sum(each.event.label == label and scene.start_s is not None for each, scene in pairs),
            }
            for label in dict.fromkeys(of_label.event.label for of_label, _ in pairs)
        },
        "false_starts": len([run for _, scene in events for run in scene.false_starts]),
        "false_starts_ordinary": len([run for _, scene in ordinary for run in scene.false_starts]),
    }


def camera_events_text(result: dict[str, Any]) -> str:
    """Format the figures as text."""
    lines = []
    for half, figures in result.items():
        false = figures["ordinary"]["labels"]
        by_label = ", ".join(f"{each['false_starts']} {label}" for label, each in false.items() if each["false_starts"])
        lines += [
            f"{half}: {live_text(figures['events'])}",
            f"{half}, film in which nothing happens: {figures['distinct_hours']:.2f} h, repeated with changes",
            rate_text("false starts", figures["ordinary"]["false_starts"]) + (by_label and f": {by_label}"),
            f"  scene_lost         {figures['scene_lost']['false_starts_ordinary']:6d} there, "
            f"{figures['scene_lost']['false_starts']} in the films with events; started for "
            + ", ".join(
                f"{each['started']} of {each['events']} {label}"
                for label, each in figures["scene_lost"]["labels"].items()
            ),
            "",
        ]
    return "\n".join(lines[:-1])


def _of(results: dict[str, list[_Compared]], half: str) -> list[_Compared]:
    return [each for name in _halves(half) for each in results[name]]


def _halves(half: str) -> Iterable[str]:
    return HALVES if half == "all" else (half,)
