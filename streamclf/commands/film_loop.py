"""Go through the films of `streamclf classify`: a film that cannot be read is named, and the others are classified."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from engines.printable import printable
from streamclf.commands.film_progress import FilmProgress
from streamclf.errors import SourceError
from streamclf.redact import redact
from streamclf.runtime.interrupts import describe_work
from streamclf.sources.film_files import FoundFilms
from streamclf.sources.picture_part import RegionTooSmallError


def classify_all(
    found: FoundFilms,
    classify_film: Callable[[Path], None],
    progress: FilmProgress,
    *,
    on_fault: Callable[[str], None] = lambda _: None,
) -> tuple[int, int]:
    """Call `classify_film` with each film; return how many were classified, and how many could not be."""
    done, failed = 0, len(found.faults)
    describe_work(lambda: f"{done} of {len(found.films)} files classified")
    for path in found.films:
        progress.begin(str(path))
        try:
            classify_film(path)
            done += 1
        except SourceError as error:
            fault = redact(f"{path}: {error}" if isinstance(error, RegionTooSmallError) else str(error))
            on_fault(fault)
            with progress.paused():
                complain(fault)
            failed += 1
    return done, failed


def summarise(done: int, failed: int, written: Sequence[Path]) -> int:
    """Print what was written and what failed; return the exit code, 1 if a film failed."""
    if failed and failed + done > 1:
        complain(f"{failed} of {failed + done} could not be classified")
    if done and written:
        names = ", ".join(map(str, written))
        films_text = "1 film" if done == 1 else f"{done} films"
        print(f"streamclf classify: {films_text} classified; written: {printable(names)}", file=sys.stderr)
    return 1 if failed else 0


def file_sizes(films: Sequence[Path]) -> list[int]:
    """Return the sizes of the films in bytes; 0 for a film that cannot be examined."""
    return [_size(film) for film in films]


def complain(text: str) -> None:
    """Print one line to stderr."""
    print(f"streamclf: {printable(text)}", file=sys.stderr)


def _size(film: Path) -> int:
    try:
        return film.stat().st_size
    except (OSError, ValueError):  # reading it reports the reason
        return 0
