"""`streamclf bench`: what was asked for is found out, measured and printed."""

from __future__ import annotations

import contextlib
import signal
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Literal, NoReturn

import orjson

from engines.backends.names import Backend, Precision
from streamclf.bench.cameras.film import FilmSpec, make_film, save_film
from streamclf.bench.service.capacity import find_capacity
from streamclf.builtin_models import DEFAULT_MODEL, find_bundle
from streamclf.config.service import MAX_STREAMS, EngineConfig, load_config
from streamclf.errors import BenchError, UsageError
from streamclf.runtime.child import configure_logging

SECONDS: Final = 20.0
PROBE_S: Final = 10.0
SIZE: Final = "1280x720"
FPS: Final = 25.0
ROUND_S: Final = 0.25
PROBED: Final = ("streams", "held", "missed", "dropped", "cpu_s_per_s", "efficiency", "latency_ms", "error")
CONFIGS: Final = (".yaml", ".yml", ".json")


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
    capacity: bool,
    suite: Literal["gpu"] | None,
    only: str | None,
    keep: Path | None,
    as_json: bool,
) -> int:
    """Measure and print; the exit code. Raises `BenchError` where it is ended before the end."""
    configure_logging("warning")
    of_service = streams is not None or capacity or _is_config(target)
    with _one_end():
        if not of_service:
            _refuse({"--hop": hop, "--size": size, "--fps": fps})
        if suite is None and (only is not None or keep is not None):
            raise UsageError("--only and --keep: they are for the parts of a suite; give --suite gpu, too")
        if suite == "gpu":
            if of_service or backend is not None:
                raise UsageError(
                    "--suite gpu measures bundles on TensorRT: leave out cameras, --capacity and --backend"
                )
            from streamclf.bench.gpu.suite import DEFAULTS, bench_gpu, lines

            request = replace(DEFAULTS, max_batch=max_batch or DEFAULTS.max_batch, seconds=seconds or DEFAULTS.seconds)
            found = bench_gpu(target, precision=precision, only=only, keep=keep, request=request)
        elif not of_service:
            from streamclf.bench.bundle_speed import bench_bundle, lines

            found = bench_bundle(
                find_bundle(target or DEFAULT_MODEL),
                backend=backend,
                precision=precision,
                max_batch=max_batch or EngineConfig().max_batch,
                seconds=ROUND_S if seconds is None else seconds,
            )
        else:
            from streamclf.bench.service.report import lines

            options = {"backend": backend, "precision": precision, "max_batch": max_batch}
            chosen = {key: value for key, value in options.items() if value is not None}
            found = _service(
                target, streams, _film(size or SIZE, FPS if fps is None else fps), seconds, hop, chosen, capacity
            )
    if as_json:
        sys.stdout.buffer.write(orjson.dumps(found) + b"\n")
    else:
        print("\n".join(lines(found)))
    return 0


def _service(
    target: str | None,
    streams: int | None,
    film: FilmSpec,
    seconds: float | None,
    hop: int | None,
    chosen: dict[str, Any],
    capacity: bool,
) -> dict[str, Any]:
    from streamclf.bench.service.cpu_limit import CpuLimit, measure_cpu_limit
    from streamclf.bench.service.report import figures
    from streamclf.bench.service.run import ServiceLoad, measure_service

    if not sys.platform.startswith("linux"):
        raise BenchError(f"{sys.platform}: what processes take is read from /proc, which only Linux has")
    model, engine = DEFAULT_MODEL if target is None else target, EngineConfig()
    if target is not None and _is_config(target):
        config = load_config(Path(target))
        model, engine = config.model, config.engine
        streams = streams or len(config.streams)
        hop = hop or next(iter(config.streams.values())).hop
    load = ServiceLoad(
        bundle=find_bundle(model),
        engine=engine.model_copy(update=chosen),
        streams=streams or 1,
        film=film,
        hop=hop or 1,
        seconds=seconds or (PROBE_S if capacity else SECONDS),
    )
    with tempfile.TemporaryDirectory(prefix="streamclf-bench-") as name:
        folder = Path(name)
        _tell(f"making a film of {film.width}x{film.height}")
        shown = make_film(film)
        save_film(shown, folder / "film")
        found: dict[int, dict[str, Any]] = {}

        def measured(count: int) -> dict[str, Any]:
            part = Path(tempfile.mkdtemp(dir=folder))
            wanted = replace(load, streams=count)
            _tell(f"{count} streams: the limit, then {load.seconds:g} s of service")
            limit: CpuLimit = measure_cpu_limit(load.bundle, wanted.engine, shown, streams=count)
            found[count] = figures(wanted, measure_service(wanted, folder / "film", part), limit)
            return found[count]

        if not capacity:
            return measured(load.streams)

        probes: list[dict[str, Any]] = []

        def held(count: int) -> bool:
            try:
                result = measured(count)
            except BenchError as error:
                if count == 1:
                    raise
                result = {"streams": count, "held": False, "error": str(error)}  # so many do not even start
            _tell(f"{count} streams: {'held' if result['held'] else 'not held'}")
            probes.append({key: result[key] for key in PROBED if key in result})
            return bool(result["held"])

        most = find_capacity(held, first=load.streams, most=MAX_STREAMS)
        return {**found[most or 1], "capacity": most, "probes": probes}


def _refuse(of_cameras: dict[str, object]) -> None:
    for name, value in of_cameras.items():
        if value is not None:
            raise UsageError(f"{name} {value}: give --streams, too; a bundle alone has no cameras")


def _is_config(target: str | None) -> bool:
    return target is not None and Path(target).suffix.lower() in CONFIGS


def _film(text: str, fps: float) -> FilmSpec:
    width, _, height = text.lower().partition("x")
    if not (width.isascii() and width.isdigit() and height.isascii() and height.isdigit()):
        raise UsageError(f"--size {text}: like 1280x720")
    return FilmSpec(width=int(width[:6]), height=int(height[:6]), fps=fps)


def _tell(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def _one_end() -> Iterator[None]:
    """SIGTERM ends it as Ctrl-C does: everything that was started is taken down on the way out."""

    def interrupt(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    # Ctrl-C's own, too: a shell starts what runs in its background deaf to it.
    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    except KeyboardInterrupt:
        raise BenchError("ended before the end: nothing was measured") from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
