"""Classify films in a process of its own, so that a film that crashes or stalls a decoder ends that process only."""

from __future__ import annotations

import contextlib
import hashlib
import multiprocessing
import os
import signal
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final

import numpy as np

from engines.arrays import F32, F64
from engines.backends.names import Backend, Precision
from engines.bundle import SPEC_FILE, Bundle, load_bundle
from engines.errors import EngineError
from engines.opening import open_engine
from engines.printable import path_text, printable
from streamclf.archive.films import local_copy
from streamclf.classifier.offline import classify_file
from streamclf.classifier.window_classifier import offline_bank_slots
from streamclf.config.picture_area import WHOLE, PictureArea
from streamclf.config.source_settings import DecodeMode
from streamclf.errors import StreamclfError
from streamclf.redact import redact
from streamclf.sources import Frame, Source

MAX_BATCH: Final = 16
STALL_S: Final = 300.0
"""A film from which no frame could be read for so long is given up."""
START_S: Final = 600.0
"""Longest time for an engine to open: some backends compile for minutes."""
_PROGRESS_EVERY_S: Final = 0.5
_END_S: Final = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchiveJob:
    """How the films of one archive are classified. `threads`: of one process's engine, 0 for all cores.

    `model_sha256`: that of the bundle when the run began. A process refuses another one. Empty: not checked.
    """

    bundle: Path
    model_sha256: str = ""
    hop: int = 1
    backend: Backend = "auto"
    precision: Precision = "auto"
    area: PictureArea = WHOLE
    decode: DecodeMode = "exact"
    threads: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class FilmRows:
    """The windows of one film, in order: W windows of K labels.

    `starts_s` and `ends_s`: media time in seconds, (W,). `probabilities`: (W, K). `error`: why the film could not be
    classified, in one line; it has no windows then. `warning`: a fault of a film that could.
    """

    film: str
    starts_s: F64
    ends_s: F64
    probabilities: F32
    error: str | None = None
    warning: str | None = None

    @classmethod
    def failed(cls, film: str, error: str) -> FilmRows:
        """Return the result of a film that could not be classified."""
        empty = np.zeros(0)
        return cls(
            film=film, starts_s=empty, ends_s=empty, probabilities=np.zeros((0, 0), np.float32), error=printable(error)
        )


def model_sha256(bundle: Bundle) -> str:
    """Return the SHA-256 of what a bundle computes: its spec.json, which has the SHA-256 of each graph.

    Raises `EngineError` if the file cannot be read.
    """
    try:
        return hashlib.sha256((bundle.path / SPEC_FILE).read_bytes()).hexdigest()
    except OSError as error:
        raise EngineError(f"{bundle.path / SPEC_FILE}: {error.strerror}; check the path") from error


class FilmWorker:
    """One process that classifies one film at a time. The caller waits for `connection`, and then calls `receive`."""

    def __init__(self, job: ArchiveJob) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self._process = context.Process(target=_run, args=(job, theirs), daemon=True)
        self._process.start()
        theirs.close()
        self.film: str | None = None
        self.is_ready = False
        """Whether its engine is open."""
        self.read_bytes = 0
        """Bytes of the present film that it has read."""
        self._last_message_s = time.monotonic()

    @property
    def stalled_s(self) -> float:
        """Seconds until the process counts as stalled; it cannot stall without a film."""
        if self.is_ready and self.film is None:
            return float("inf")
        return self._last_message_s + (STALL_S if self.is_ready else START_S) - time.monotonic()

    def start(self, film: str) -> None:
        """Hand over the next film."""
        self.film, self.read_bytes, self._last_message_s = film, 0, time.monotonic()
        with contextlib.suppress(OSError):  # `receive` reports that the process has ended
            self.connection.send(film)

    def receive(self) -> FilmRows | None:
        """Take one message of the process; return the result of its film, or None.

        Raises `EngineError` where the engine cannot be opened, and `EOFError` where the process has ended.
        """
        try:
            message = self.connection.recv()
        except OSError as error:
            raise EOFError from error
        self._last_message_s = time.monotonic()
        if isinstance(message, EngineError):
            raise message
        if isinstance(message, FilmRows):
            self.film = None
            return message
        if message is None:
            self.is_ready = True
        else:
            self.read_bytes = message
        return None

    def end(self) -> str:
        """End the process, whatever it does, and return how it ended."""
        self.connection.close()
        if self.film is not None or not self.is_ready:
            self._process.kill()
        self._process.join(_END_S)
        if self._process.exitcode is None:
            self._process.kill()
            self._process.join()
        code = self._process.exitcode or 0
        return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def _run(job: ArchiveJob, connection: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the command handles Ctrl-C
    os.nice(5)
    try:
        bundle = load_bundle(job.bundle)
        if job.model_sha256 not in {"", model_sha256(bundle)}:
            raise EngineError(
                f"{job.bundle}: another model was written there during this run; restore the model, or give another "
                "name for the results"
            )
        engine = open_engine(
            bundle,
            backend=job.backend,
            precision=job.precision,
            max_batch=MAX_BATCH,
            bank_slots=offline_bank_slots(bundle.spec, MAX_BATCH),
            threads=job.threads,
        )
    except EngineError as error:
        connection.send(EngineError(str(error)))
        return
    sent_s = 0.0

    def watch(source: Source, _: Frame) -> None:
        nonlocal sent_s
        if (now_s := time.monotonic()) - sent_s >= _PROGRESS_EVERY_S:
            sent_s = now_s
            connection.send(source.read_bytes)

    with contextlib.suppress(EOFError, OSError), contextlib.closing(engine):
        connection.send(None)
        while True:
            film = connection.recv()
            shown = film
            try:
                with local_copy(film) as path:
                    shown = str(path)
                    result = classify_file(engine, path, hop=job.hop, on_frame=watch, area=job.area, decode=job.decode)
            except (StreamclfError, EngineError, MemoryError) as error:
                name = path_text(film)
                text = redact(str(error).replace(path_text(shown), name)) or "out of memory"
                connection.send(FilmRows.failed(film, text if name in text else f"{name}: {text}"))
                continue
            connection.send(
                FilmRows(
                    film=film,
                    starts_s=np.array([window.start_s for window in result.windows]),
                    ends_s=np.array([window.end_s for window in result.windows]),
                    probabilities=np.array([window.probabilities for window in result.windows], np.float32),
                    warning=result.warning and printable(result.warning.replace(path_text(shown), path_text(film))),
                )
            )
