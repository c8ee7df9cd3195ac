"""Open a model and classify with it: what `streamclf.classify` and `streamclf.open_model` do."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import ExitStack
from itertools import chain
from operator import index
from pathlib import Path
from types import TracebackType
from typing import Any, Final, SupportsFloat, SupportsIndex, get_args

import numpy.typing as npt

from engines.backends.names import Backend, Precision
from engines.bundle import Bundle, ModelSpec
from engines.errors import EngineError
from engines.opening import open_engine
from engines.printable import printable
from streamclf.api.classification import Classification
from streamclf.api.several import by_name, iter_windows
from streamclf.api.shared_engine import BankRegion, SharedEngine
from streamclf.api.stream import ModelStream
from streamclf.api.window import ClassifiedWindow, to_window
from streamclf.builtin_models import DEFAULT_MODEL, find_bundle
from streamclf.classifier.offline import iter_array_windows, iter_file_windows
from streamclf.classifier.window_classifier import WindowResult, offline_bank_slots
from streamclf.config.source_settings import DecodeMode, path_of
from streamclf.errors import ModelError, UsageError
from streamclf.sources.array import ArraySource, check_fps, check_one_clock, film_frames, iter_images, rate_frames

MAX_BATCH: Final = 16
"""As the command line; so both compute the same numbers."""
MAX_STREAMS: Final = 1024
MAX_THREADS: Final = 1024

Results = Generator[WindowResult, None, str | None]
Frames = npt.ArrayLike | Iterable[npt.ArrayLike]


class Model:
    """An open model, in a `with` block or until `close`. Made by `streamclf.open_model`.

    `id` is its name and version, `labels` its K labels, `window_s` the length of a window in seconds. `engine`
    describes backend, device and precision.

    Any thread may use a model: threads compute one after the other. Each stream has its own features.
    """

    def __init__(self, shared: SharedEngine) -> None:
        self._shared = shared
        self._own_stream: ModelStream | None = None
        self._own_stream_lock = threading.Lock()
        spec = shared.spec
        self.id: Final = spec.id
        self.labels: Final = spec.labels
        self.window_s: Final = spec.window_s
        self.engine: Final = shared.description

    def __repr__(self) -> str:
        return f"<streamclf.Model {self.id}, {len(self.labels)} labels, {self.engine}>"

    def __enter__(self) -> Model:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: object, trace: TracebackType | None) -> None:
        self.close()

    async def __aenter__(self) -> Model:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, value: object, trace: TracebackType | None) -> None:
        self.close()

    def classify(
        self,
        source: str | os.PathLike[str] | Frames,
        *,
        fps: SupportsFloat | None = None,
        pts_s: Iterable[SupportsFloat] | None = None,
        hop: int = 1,
        decode: DecodeMode = "exact",
    ) -> Classification:
        """Classify a film or frames: see `streamclf.classify`."""
        make_results = _results_of(source, fps, pts_s, _check_hop(hop, self._shared.spec), _check_decode(decode))
        return Classification(_iter_windows(lambda _: self, make_results))

    def new_stream(self, *, hop: int = 1) -> ModelStream:
        """Return a new stream to push frames to; a window is complete every `hop` chunks.

        Raises `UsageError` if `max_streams` are open. A stream that the program no longer uses counts as closed.
        """
        return ModelStream(self._shared.take_region(), _check_hop(hop, self._shared.spec))

    def push(
        self,
        frames: npt.ArrayLike | Sequence[npt.ArrayLike],
        fps: SupportsFloat | None = None,
        *,
        pts_s: SupportsFloat | Iterable[SupportsFloat] | None = None,
    ) -> list[ClassifiedWindow]:
        """Push frames to the model's own stream, which the first call makes: see `ModelStream.push`.

        For more than one source of frames, make a stream for each with `new_stream`.
        """
        with self._own_stream_lock:
            if self._own_stream is None:
                self._own_stream = self.new_stream()
        return self._own_stream.push(frames, fps, pts_s=pts_s)

    def close(self) -> None:
        """Free the model; its streams can no longer be used. May be called twice."""
        self._shared.close()


def open_model(
    model: str | os.PathLike[str] = DEFAULT_MODEL,
    *,
    backend: Backend = "auto",
    precision: Precision = "auto",
    threads: int = 0,
    max_streams: int = 8,
) -> Model:
    """Load a model, and check its numbers against those of PyTorch.

    `model`: the name of a built-in one, or a bundle's directory. `backend` and `precision`: `auto`, or as in
    `engine.backend` and `engine.precision` of the configuration. `threads`: at most so many processor cores; 0 for all.
    `max_streams`: how many streams and classifications may be open at once, 1 to 1024; each has memory for the features
    of one window and one batch of 16 chunks.

    The first time, TensorRT compiles for minutes. Raises `UsageError` for wrong arguments, and `ModelError` for a
    damaged bundle, or a backend that is not installed.
    """
    return _open(_find(model, backend, precision, threads), backend, precision, threads, max_streams)


def classify(
    source: str | os.PathLike[str] | Frames,
    *,
    model: str | os.PathLike[str] | Model | Sequence[str | os.PathLike[str]] = DEFAULT_MODEL,
    fps: SupportsFloat | None = None,
    pts_s: Iterable[SupportsFloat] | None = None,
    hop: int = 1,
    backend: Backend = "auto",
    precision: Precision = "auto",
    threads: int = 0,
    decode: DecodeMode = "exact",
) -> Classification:
    """Classify a film or frames, and iterate over the windows while they are computed.

    `source`: the path or file URL of a video file; or frames, (T, H, W, 3) uint8 RGB; or any iterable of frames
    (H, W, 3), such as a generator, whose sizes may differ. It is read as the windows are asked for. Frames need `fps`,
    their number per second, or `pts_s`, the time of each in seconds, which increases.

    `model`: an open one (`open_model`), the name of a built-in one, or a bundle's directory. For a film it may be a
    list of names and directories; the film is then read once, and `ClassifiedWindow.model` names the model of each
    window. A model that is not open is opened for this classification only. `hop`: chunks between two windows. The
    numbers are those of `streamclf classify --json`. A source that is shorter than a window yields one window, with
    `short_clip`.

    `decode`: `exact`, `fast` or `auto`, as in the configuration of a stream; for films only.

    Raises `UsageError` for wrong arguments, at once; for frames that cannot be used, when they are reached. The
    iteration raises `SourceError` for a file that cannot be read, and `ModelError`. A film that is shorter than it
    declares gives a `UserWarning` at its end.
    """
    if isinstance(model, Model):
        if (backend, precision, threads) != ("auto", "auto", 0):
            raise UsageError("backend, precision and threads: the model is open already; give them to open_model")
        return model.classify(source, fps=fps, pts_s=pts_s, hop=hop, decode=decode)
    if isinstance(model, (list, tuple)):
        bundles = by_name([_find(each, backend, precision, threads) for each in model])
        hops = [_check_hop(hop, bundle.spec) for bundle in bundles.values()]
        if not isinstance(source, (str, os.PathLike)):
            raise UsageError("model: several are only for a film; for frames, give each model a stream of its own")
        _check_no_clock(fps, pts_s)
        film = _path(source)
        return Classification(
            iter_windows(
                film,
                bundles,
                hop=hops[0],
                backend=backend,
                precision=precision,
                threads=threads,
                max_batch=MAX_BATCH,
                decode=_check_decode(decode),
            )
        )
    bundle = _find(model, backend, precision, threads)
    make_results = _results_of(source, fps, pts_s, _check_hop(hop, bundle.spec), _check_decode(decode))

    def open_for_this(stack: ExitStack) -> Model:
        return stack.enter_context(_open(bundle, backend, precision, threads, max_streams=1))

    return Classification(_iter_windows(open_for_this, make_results))


def _iter_windows(
    open_: Callable[[ExitStack], Model], make_results: Callable[[BankRegion], Results]
) -> Generator[ClassifiedWindow, None, None]:
    with ExitStack() as stack:
        model = open_(stack)
        results = make_results(stack.enter_context(model._shared.take_region()))
        stack.callback(results.close)
        while True:
            try:
                result = next(results)
            except StopIteration as end:
                if end.value is not None:
                    warnings.warn(printable(end.value), UserWarning, stacklevel=3)
                return
            yield to_window(result, model._shared.spec)


def _results_of(source: Any, fps: object, pts_s: Any, hop: int, decode: DecodeMode) -> Callable[[BankRegion], Results]:
    """Return the function that classifies `source`. Raises `UsageError` for arguments that do not fit together."""
    if isinstance(source, (str, os.PathLike)):
        path = _path(source)
        _check_no_clock(fps, pts_s)
        return lambda region: iter_file_windows(region, path, hop=hop, decode=decode)
    if decode != "exact":
        raise UsageError(f"decode={decode}: only for films; frames are not decoded")
    images = iter_images(source)
    check_one_clock(fps, pts_s)
    frames = film_frames(images, pts_s) if fps is None else rate_frames(images, check_fps(fps))

    def classify_frames(region: BankRegion) -> Results:
        first = next(frames, None)
        if first is None:
            raise UsageError("frames: empty; give at least one frame")
        yield from iter_array_windows(region, ArraySource(chain([first], frames)), hop=hop)
        return None

    return classify_frames


def _check_decode(decode: DecodeMode) -> DecodeMode:
    if decode not in get_args(DecodeMode):
        raise UsageError(f"decode={decode!r:.40}: must be one of {', '.join(get_args(DecodeMode))}")
    return decode


def _check_no_clock(fps: object, pts_s: object) -> None:
    if fps is not None or pts_s is not None:
        raise UsageError("fps and pts_s: only for frames; a file has its own times")


def _path(source: str | os.PathLike[str]) -> Path:
    text = os.fspath(source)
    if not isinstance(text, str):
        raise UsageError("source: a path in bytes; decode it with os.fsdecode")
    path = path_of(text)
    if text[:6].lower() == "file:/":
        if path == Path(text):
            raise UsageError("source: a file URL is file:///ABSOLUTE/PATH, without a host; or give the path alone")
    elif "://" in text:
        raise UsageError(
            "source: a URL; must be a file. For a live source run the service (streamclf run), or push its frames to a "
            "stream: open_model(...).new_stream()"
        )
    return path


def _find(model: object, backend: str, precision: str, threads: int) -> Bundle:
    if not isinstance(model, (str, os.PathLike)):
        raise UsageError(f"model: {type(model).__name__}; must be a built-in model's name, or a bundle's directory")
    for name, value, known in (("backend", backend, get_args(Backend)), ("precision", precision, get_args(Precision))):
        if value not in known:
            raise UsageError(f"{name}={value!r:.40}: must be one of {', '.join(known)}")
    _check_count("threads", threads, 0, MAX_THREADS)
    try:
        return find_bundle(os.fspath(model))
    except EngineError as error:
        raise ModelError(str(error)) from error


def _open(bundle: Bundle, backend: Backend, precision: Precision, threads: int, max_streams: int) -> Model:
    _check_count("max_streams", max_streams, 1, MAX_STREAMS)
    slots = max_streams * offline_bank_slots(bundle.spec, MAX_BATCH)
    try:
        engine = open_engine(
            bundle,
            backend=backend,
            precision=precision,
            max_batch=MAX_BATCH,
            bank_slots=slots,
            threads=threads,
        )
    except EngineError as error:
        raise ModelError(str(error)) from error
    return Model(SharedEngine(engine, max_streams))


def _check_hop(hop: object, spec: ModelSpec) -> int:
    return _check_count("hop", hop, 1, spec.chunks)


def _check_count(name: str, value: object, low: int, high: int) -> int:
    number = None if isinstance(value, bool) or not isinstance(value, SupportsIndex) else index(value)
    if number is None or not low <= number <= high:
        raise UsageError(f"{name}={value!r:.40}: must be a whole number, {low} to {high}")
    return number
