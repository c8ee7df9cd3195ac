"""Run `streamclf bench`: measure a bundle, a whole service or the GPU suite, and print the result."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Literal, NoReturn, TypeAlias

import orjson

from engines.backends.names import Backend, Precision
from engines.printable import printable
from streamclf.bench.cameras.film import FilmSpec
from streamclf.builtin_models import DEFAULT_MODEL, find_bundle
from streamclf.config.engine import EngineConfig
from streamclf.config.service import load_config
from streamclf.config.source_settings import DecodeMode
from streamclf.config.views import UNNAMED
from streamclf.errors import BenchError, UsageError
from streamclf.runtime.logs import configure_logging

BenchDecode: TypeAlias = Literal["auto", "exact", "fast", "both"]
SECONDS: Final = 20.0
"""Measured time of one run of a service."""
CAPACITY_SECONDS: Final = 10.0
"""Measured time of each run while the capacity is searched."""
SIZE: Final = "1280x720"
FPS: Final = 25.0
BUNDLE_ROUND_S: Final = 0.25
CONFIG_SUFFIXES: Final = (".yaml", ".yml", ".json")


def run_bench(
    target: str | None,
    *,
    streams: int | None,
    size: str | None,
    fps: float | None,
    seconds: float | None,
    hop: int | None,
    backend: Backend | None,
    precision: Precision | None,
    max_batch: int | None,
    decode: BenchDecode | None,
    capacity: bool,
    suite: Literal["gpu"] | None,
    only: str | None,
    keep: Path | None,
    as_json: bool,
) -> int:
    """Measure what the options ask for, print the result and return the exit code.

    Raises `UsageError` for options that do not fit together, and `BenchError` for a measurement that fails or is
    interrupted.
    """
    configure_logging("bench", "warning")
    measures_service = streams is not None or capacity or _is_config(target)
    with _interrupt_on_signals():
        if not measures_service:
            _refuse_camera_options({"--hop": hop, "--size": size, "--fps": fps, "--decode": decode})
        if capacity and decode == "both":
            raise UsageError("--decode both compares a fixed number of streams; leave out --capacity")
        if suite is None and (only is not None or keep is not None):
            raise UsageError("--only and --keep select parts of the GPU suite; add --suite gpu")
        if suite == "gpu":
            if measures_service or backend is not None:
                raise UsageError(
                    "--suite gpu measures bundles on TensorRT; leave out --streams, CONFIG, --capacity and --backend"
                )
            from streamclf.bench.gpu.suite import DEFAULTS, bench_gpu, format_result

            request = replace(DEFAULTS, max_batch=max_batch or DEFAULTS.max_batch, seconds=seconds or DEFAULTS.seconds)
            result = bench_gpu(target, precision=precision, only=only, keep=keep, request=request)
        elif not measures_service:
            from streamclf.bench.bundle_speed import bench_bundle, format_result

            result = bench_bundle(
                find_bundle(target or DEFAULT_MODEL),
                backend=backend,
                precision=precision,
                max_batch=max_batch or EngineConfig().max_batch,
                seconds=BUNDLE_ROUND_S if seconds is None else seconds,
            )
        else:
            if decode == "both":
                from streamclf.bench.service.decoding import format_comparison as format_result
            else:
                from streamclf.bench.service.report import format_result

            overrides = {"backend": backend, "precision": precision, "max_batch": max_batch}
            result = _bench_service(
                target,
                streams=streams,
                film=_film_spec(size or SIZE, FPS if fps is None else fps),
                seconds=seconds,
                hop=hop,
                engine_overrides={key: value for key, value in overrides.items() if value is not None},
                decode=decode,
                capacity=capacity,
            )
    if as_json:
        sys.stdout.buffer.write(orjson.dumps(result) + b"\n")
    else:
        print("\n".join(map(printable, format_result(result))))
    return 0


def _bench_service(
    target: str | None,
    *,
    streams: int | None,
    film: FilmSpec,
    seconds: float | None,
    hop: int | None,
    engine_overrides: dict[str, Any],
    decode: BenchDecode | None,
    capacity: bool,
) -> dict[str, Any]:
    """Measure the service of a bundle or a configuration; its cameras are replaced by the bench's."""
    from streamclf.bench.service.bench import bench_service
    from streamclf.bench.service.run import ServiceLoad

    if not sys.platform.startswith("linux"):
        raise BenchError(f"{sys.platform}: a service can be measured on Linux only, from what /proc says of processes")
    models, engine = {UNNAMED: target or DEFAULT_MODEL}, EngineConfig()
    mode: DecodeMode = "auto"
    if target is not None and _is_config(target):
        config = load_config(Path(target))
        models, engine = config.all_models, config.engine
        streams = streams or len(config.streams)
        first = next(iter(config.streams.values()))
        hop, mode = hop or first.hop, first.decode
    bundle, *further = (find_bundle(model, f"models.{name}" if name else "model") for name, model in models.items())
    load = ServiceLoad(
        bundle=bundle,
        further=dict(zip([*models][1:], further, strict=True)),
        engine=engine.model_copy(update=engine_overrides),
        streams=streams or 1,
        film=film,
        hop=hop or 1,
        seconds=seconds or (CAPACITY_SECONDS if capacity else SECONDS),
        decode=mode if decode is None or decode == "both" else decode,
    )
    return bench_service(load, capacity=capacity, compare=decode == "both")


def _refuse_camera_options(options: dict[str, object]) -> None:
    for name, value in options.items():
        if value is not None:
            raise UsageError(f"{name} {value} describes cameras, and a bundle alone has none; add --streams")


def _is_config(target: str | None) -> bool:
    return target is not None and Path(target).suffix.lower() in CONFIG_SUFFIXES


def _film_spec(size: str, fps: float) -> FilmSpec:
    width, _, height = size.lower().partition("x")
    if not (width.isascii() and width.isdigit() and height.isascii() and height.isdigit()):
        raise UsageError(f"--size {size}: give WIDTHxHEIGHT, like 1280x720")
    return FilmSpec(width=int(width[:6]), height=int(height[:6]), fps=fps)


@contextlib.contextmanager
def _interrupt_on_signals() -> Iterator[None]:
    """Let SIGTERM interrupt the bench as Ctrl-C does, so that it ends every process that it has started."""

    def interrupt(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    # SIGINT needs a handler, too: a shell starts its background jobs with SIGINT ignored.
    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    except KeyboardInterrupt:
        raise BenchError("interrupted: nothing was measured") from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
