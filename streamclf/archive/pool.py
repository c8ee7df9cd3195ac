"""Classify films in several processes of this machine, each film once."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from multiprocessing.connection import wait
from typing import Final

from engines.printable import path_text
from streamclf.archive.films import Film
from streamclf.archive.worker import STALL_S, ArchiveJob, FilmRows, FilmWorker
from streamclf.errors import OutputError

MAX_FAILED_STARTS: Final = 3
"""Processes that may end before their engine is open, one after the other."""
_TICK_S: Final = 0.5


def classify_in_processes(
    job: ArchiveJob, films: Sequence[Film], *, workers: int, on_progress: Callable[[int], None] = lambda _: None
) -> Generator[FilmRows, None, None]:
    """Yield the result of each film, in the order in which they end; see `FilmPool.classify`."""
    with closing(FilmPool(job, workers=min(workers, len(films)))) as pool:
        yield from pool.classify(films, on_progress=on_progress)


class FilmPool:
    """Processes that keep their engines open from one call to the next."""

    def __init__(self, job: ArchiveJob, *, workers: int) -> None:
        self._job = job
        self._workers = [FilmWorker(job) for _ in range(workers)]
        self._failed_starts = 0

    def classify(
        self, films: Sequence[Film], *, on_progress: Callable[[int], None] = lambda _: None
    ) -> Generator[FilmRows, None, None]:
        """Yield the result of each film, in the order in which they end.

        `on_progress` gets the bytes that were read of the films in work. A film during which its process ends, or from
        which nothing can be read for `STALL_S`, counts as failed, and another process takes the rest. Raises
        `EngineError`, or `OutputError` where processes end before they begin.
        """
        waiting, left = iter(films), len(films)
        while left:
            for worker in self._workers:
                if worker.is_ready and worker.film is None and (film := next(waiting, None)):
                    worker.start(film.name)
            ready = {*wait([worker.connection for worker in self._workers], timeout=_TICK_S)}
            for worker in [*self._workers]:
                result = None
                try:
                    if worker.connection in ready:
                        result = worker.receive()
                    elif worker.stalled_s <= 0:
                        result = self._replace(worker, f"nothing could be read for {STALL_S:g} s")
                except EOFError:
                    result = self._replace(worker, None)
                if result is not None:
                    left -= 1
                    yield result
            on_progress(sum(worker.read_bytes for worker in self._workers if worker.film))

    def close(self) -> None:
        """End all processes."""
        for worker in self._workers:
            worker.end()

    def _replace(self, worker: FilmWorker, reason: str | None) -> FilmRows | None:
        """Start another process for one that ended or stalled; return the failure of its film, if it had one."""
        ended = worker.end()
        self._failed_starts = 0 if worker.is_ready else self._failed_starts + 1
        if self._failed_starts >= MAX_FAILED_STARTS:
            raise OutputError(
                f"the processes that classify ended before they opened the model ({ended}); if memory ran out, give "
                "fewer --workers"
            )
        self._workers[self._workers.index(worker)] = FilmWorker(self._job)
        if worker.film is None:
            return None
        text = reason or f"the process that read it ended with {ended}"
        return FilmRows.failed(worker.film, f"{path_text(worker.film)}: {text}")
