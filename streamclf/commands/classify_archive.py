"""Run `streamclf classify … -o RESULTS.parquet`: classify an archive into a table, on all cores or on a cluster."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, Final, Protocol

from engines.backends.cores import usable_cores
from engines.backends.names import Backend, Precision
from engines.bundle import Bundle
from engines.printable import path_text
from streamclf.archive.films import Film, find_archive
from streamclf.archive.pool import classify_in_processes
from streamclf.archive.results import ArchiveResults
from streamclf.archive.worker import ArchiveJob, FilmRows, model_sha256
from streamclf.builtin_models import find_bundle
from streamclf.commands.classify_outputs import check_writable
from streamclf.commands.film_loop import complain
from streamclf.config.picture_area import WHOLE, PictureArea
from streamclf.config.source_settings import DecodeMode
from streamclf.errors import UsageError
from streamclf.redact import redact
from streamclf.runtime.interrupts import describe_work
from streamclf.runtime.logs import configure_logging
from streamclf.units import duration_text

FLUSH_S: Final = 10.0
"""A run that is killed repeats at most the films of so many seconds, and those in work."""
LINE_EVERY_S: Final = 10.0


class ClassifyFilms(Protocol):
    """A way to classify films."""

    def __call__(
        self, job: ArchiveJob, films: Sequence[Film], *, on_progress: Callable[[int], None]
    ) -> Generator[FilmRows, None, None]:
        """Yield the result of each film. `on_progress` gets the bytes that were read of the films in work."""


def run_archive(
    files: Sequence[Path],
    output: Path,
    *,
    models: Sequence[str],
    hop: int,
    backend: Backend,
    precision: Precision,
    area: PictureArea = WHOLE,
    decode: DecodeMode = "exact",
    workers: int = 0,
    classify: ClassifyFilms | None = None,
    unused: Mapping[str, object] | None = None,
) -> int:
    """Classify the films of `files` into `output`, and return the exit code: 1 if a film failed.

    `workers`: processes on this machine, 0 for one for each core. `classify`: another way to classify, such as a
    cluster. `unused`: other options by name, which must not be set. Films that `output` has already are left out; those
    that failed are tried again. Raises `UsageError` before any film is read, `EngineError` and `OutputError`.
    """
    configure_logging("classify", "warning")
    if given := [name for name, value in (unused or {}).items() if value]:
        raise UsageError(f"{given[0]}: not with -o {output}; leave it out")
    if len(models) > 1:
        raise UsageError(f"--model {models[1]}: -o {output} holds the results of one model; give one --model")
    if workers and classify:
        raise UsageError(f"--workers {workers}: not with --fleet, which uses all free processors of the cluster")
    bundle = find_bundle(models[0])
    if hop > bundle.spec.chunks:
        raise UsageError(f"--hop {hop}: at most {bundle.spec.chunks} (chunks in a window of {bundle.spec.id})")
    job = ArchiveJob(
        bundle=bundle.path,
        model_sha256=model_sha256(bundle),
        hop=hop,
        backend=backend,
        precision=precision,
        area=area,
        decode=decode,
    )
    _check_output(output)
    found = find_archive(files)
    for fault in found.faults:
        complain(fault)
    if not found.films:
        return 1
    results = ArchiveResults(output, identity=_identity(bundle, job), labels=bundle.spec.labels)
    films = [film for film in found.films if path_text(film.name) not in results.done]
    if len(films) < len(found.films):
        complain(
            f"{output}: has {len(found.films) - len(films)} of {len(found.films)} films already; they are left out"
        )
    # The largest films first, so that the last processes end at about the same time.
    films.sort(key=lambda film: -film.size)
    progress = _Progress(films)
    describe_work(lambda: f"{progress.done} of {len(films)} films classified; the same command continues")
    if classify is None:
        classify = partial(classify_in_processes, workers=workers or usable_cores())
    failed = len(found.faults)
    flushed_s = time.monotonic()
    try:
        with closing(classify(job, films, on_progress=progress.watch)) as rows:
            for film in rows:
                results.add(film)
                progress.count(film.film)
                for text in (film.error, film.warning and f"warning: {film.warning}"):
                    if text:
                        complain(redact(text))
                failed += film.error is not None
                if time.monotonic() - flushed_s > FLUSH_S:
                    results.flush()
                    flushed_s = time.monotonic()
    except BaseException:
        results.flush()
        raise
    results.finish()
    classified = progress.done - failed + len(found.faults)
    complain(f"{classified} of {len(films)} films classified; written: {output}")
    return 1 if failed else 0


class _Progress:
    """Print every ten seconds how many films are done, and how long the rest will take."""

    def __init__(self, films: Sequence[Film]) -> None:
        self._sizes = {film.name: max(1, film.size) for film in films}
        self._total = sum(self._sizes.values())
        self._read = 0
        self._began_s = self._printed_s = time.monotonic()
        self.done = 0

    def count(self, film: str) -> None:
        """Count a film that is done."""
        self.done += 1
        self._read += self._sizes.get(film, 0)

    def watch(self, read_bytes: int) -> None:
        """Print the progress if it is due; `read_bytes` of the films in work have been read."""
        now_s = time.monotonic()
        if now_s - self._printed_s < LINE_EVERY_S:
            return
        self._printed_s = now_s
        share = min(1.0, (self._read + read_bytes) / self._total)
        left = f", {duration_text((now_s - self._began_s) * (1 - share) / share)} left" if share > 0.002 else ""
        print(f"streamclf: {self.done} of {len(self._sizes)} films, {share:.0%}{left}", file=sys.stderr, flush=True)


def _check_output(output: Path) -> None:
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError:
        raise UsageError(f"-o {output}: needs pyarrow, which is not installed: pip install pyarrow") from None
    if output.exists() and not (output.is_dir() or output.is_file()):  # opening a pipe would wait for ever
        raise UsageError(f"-o {output}: is not a regular file; give another name")
    check_writable("-o", output)


def _identity(bundle: Bundle, job: ArchiveJob) -> dict[str, Any]:
    """Return what the results depend on, apart from the films."""
    return {
        "model": bundle.spec.id,
        "sha256": job.model_sha256,
        "hop": job.hop,
        "area": job.area.keys,
        "decode": job.decode,
    }
