"""Measure a bundle's actions on the films of a list that gives their events and times."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from engines.backends.names import Backend, Precision
from engines.bundle import Bundle
from engines.errors import EngineError
from engines.opening import open_engine
from engines.printable import path_text, printable
from streamclf.builtin_models import find_bundle
from streamclf.commands.film_loop import file_sizes
from streamclf.commands.film_progress import FilmProgress
from streamclf.config.actions import StreamActions
from streamclf.errors import StreamclfError
from streamclf.net.names import describe_unknown
from training.data.csv_columns import plain_name
from training.data.csv_lists import read_records
from training.data.file_names import as_label, listed_path, unreadable_reason
from training.errors import DataError, RecipeError, RunError
from training.evaluation.live import PlayedFilm, configured_actions, default_actions, live_bank_slots, play_film
from training.evaluation.live_events import TOLERANCE_S, TrueEvent, compare_film
from training.evaluation.live_figures import live_figures

COLUMNS: Final = ("path", "label", "start_s", "end_s")
EXAMPLE: Final = "path,label,start_s,end_s"
MAX_BATCH: Final = 16
MAX_TOLERANCE_S: Final = 3600.0
ROUNDING_S: Final = 0.5
"""An event may end this long after its film."""


def measure_list(
    model: str,
    films: Path,
    *,
    config: Path | None = None,
    stream: str | None = None,
    tolerance_s: float = TOLERANCE_S,
    backend: Backend = "auto",
    precision: Precision = "fp32",
) -> dict[str, Any]:
    """Play all films of the list `films`, and return the figures of `live_figures`.

    `config`: a configuration of the service, for its actions; without it, each label that means something has an
    action with the defaults. If one film cannot be read, there are no figures: raises `TrainingError`.
    """
    if not 0 <= tolerance_s <= MAX_TOLERANCE_S:
        raise RecipeError(f"--tolerance {tolerance_s:g}: from 0 to {MAX_TOLERANCE_S:g} seconds")
    if stream is not None and config is None:
        raise RecipeError(f"--stream {printable(stream)}: give its configuration, too, as --actions CONFIG.yaml")
    try:
        bundle = find_bundle(model, "--bundle")
        actions, hop = (
            (default_actions(bundle.spec), 1) if config is None else configured_actions(config, bundle, stream)
        )
        listed = read_films(films, bundle, actions)
        engine = open_engine(
            bundle,
            backend=backend,
            precision=precision,
            max_batch=MAX_BATCH,
            bank_slots=live_bank_slots(bundle.spec, MAX_BATCH),
        )
    except StreamclfError as error:
        raise RecipeError(str(error)) from error
    except EngineError as error:
        raise RunError(str(error)) from error
    results, warnings = [], []
    try:
        with FilmProgress(file_sizes([*listed]), passes=1) as progress:
            for path, events in listed.items():
                progress.begin(path.name)
                played = play_film(engine, path, actions, hop=hop, on_frame=progress.watch)
                warnings += [f"{path_text(path)}: {note}" for note in _check_film(path, played, events, bundle)]
                results.append(compare_film(played, events, tolerance_s=tolerance_s))
    except EngineError as error:
        raise RunError(str(error)) from error
    finally:
        engine.close()
    figures = live_figures(results, list(actions.labels))
    return {"model": bundle.spec.id, "tolerance_s": tolerance_s, "hop": hop, **figures, "warnings": warnings}


def read_films(path: Path, bundle: Bundle, actions: StreamActions) -> dict[Path, list[TrueEvent]]:
    """Return the events of each film of a CSV list with the columns of `COLUMNS`. Raises `DataError`.

    Paths are relative to the list. A row without a label, start and end names a film without an event. Each label must
    have an action.
    """
    header, records = read_records(path)
    names = [plain_name(name) for name in header]
    missing = [column for column in COLUMNS if column not in names]
    if missing:
        raise DataError(
            f"{path}: no column {missing[0]!r}; the first line has to be {EXAMPLE}, and each further line one event"
        )
    if not records:
        raise DataError(f"{path}: no row below its first line; add a line for each event, and for each other film")
    places = [names.index(column) for column in COLUMNS]
    films: dict[Path, list[TrueEvent]] = {}
    for line, fields in records:
        name, label, *times = (fields[place].strip() for place in places)
        where = f"{path}, line {line}"
        if not name:
            raise DataError(f"{where}: no path; give the film of the event")
        events = films.setdefault(path.parent / listed_path(path.parent, name), [])
        if label or any(times):
            if not label:
                raise DataError(
                    f"{where}: no label; give the event's, or leave {COLUMNS[2]} and {COLUMNS[3]} empty, too"
                )
            start_s, end_s = _times(where, times)
            events.append(TrueEvent(label=_label(where, label, bundle, actions), start_s=start_s, end_s=end_s))
    faults = [f"{path_text(film)}: {reason}" for film in films if (reason := unreadable_reason(film))]
    if faults:
        more = f", and {len(faults) - 1} more" if len(faults) > 1 else ""
        raise DataError(f"{path}: {len(faults)} of {len(films)} films cannot be read: {faults[0]}{more}; correct them")
    return films


def _label(where: str, given: str, bundle: Bundle, actions: StreamActions) -> str:
    name = as_label(given)
    label = bundle.spec.find_label(name) or name
    if label not in actions.labels:
        unknown = describe_unknown("action", printable(name), list(actions.labels), "the service")
        raise DataError(f"{where}: {unknown}; correct the label, or configure an action for it with --actions")
    return label


def _times(where: str, given: Sequence[str]) -> tuple[float, float]:
    values = []
    for column, text in zip(COLUMNS[2:], given, strict=True):
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not 0 <= value < math.inf:
            raise DataError(f"{where}: {column}={printable(text)!r:.60}: give seconds from the film's start, like 12.5")
        values.append(value)
    start_s, end_s = values
    if start_s >= end_s:
        raise DataError(f"{where}: start_s={start_s:g}, end_s={end_s:g}: the event has to end after its start")
    return start_s, end_s


def _check_film(path: Path, played: PlayedFilm, events: Sequence[TrueEvent], bundle: Bundle) -> list[str]:
    """Return what limits the figures of a film. Raises `DataError` for an event that the film cannot show."""
    window_s = bundle.spec.window_s
    if not played.watched_s:
        text = f"shorter than a window of {bundle.spec.id} ({window_s:g} s), so a live stream has no prediction of it"
        if events:
            raise DataError(f"{path_text(path)}: {text}; give a film that begins before the event and ends after it")
        return [text]
    for event in events:
        if event.end_s > played.last_s + bundle.spec.chunk_s + ROUNDING_S:
            raise DataError(
                f"{path_text(path)}: {event.label} from {event.start_s:g} to {event.end_s:g} s: the film ends at "
                f"{played.last_s:.1f} s; correct the list, or check the film"
            )
    return [] if played.warning is None else [played.warning]
