"""What the machine cannot do without: decoding, encoding and classifying, each alone in a tight loop."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from engines.bundle import Bundle
from engines.opening import open_engine
from engines.protocol import Engine

if TYPE_CHECKING:  # a machine that only measures a GPU has no need of what these import
    from streamclf.bench.film import Film
    from streamclf.config.service import EngineConfig

ROUNDS: Final = 5
ROUND_S: Final = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """Seconds of processor time, of all threads: of a decoded picture, an encoded chunk, a classified window.

    `spread` is that of the noisiest of the three over its rounds, (highest - lowest) / median.
    """

    decode_s: float
    encode_s: float
    head_s: float
    spread: float

    def cpu_s_per_s(self, *, pictures_per_s: float, chunks_per_s: float, windows_per_s: float) -> float:
        """Processor time that so much work takes at least."""
        return self.decode_s * pictures_per_s + self.encode_s * chunks_per_s + self.head_s * windows_per_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Of one call, over several rounds: median seconds of the clock and of processor time, and their spread."""

    wall_s: float
    cpu_s: float
    wall_spread: float
    cpu_spread: float


def measure_limit(bundle: Bundle, engine: EngineConfig, film: Film, *, streams: int) -> Limit:
    """`engine` as the service with so many streams would open it; of the batches that they can fill, the cheapest."""
    opened = open_engine(
        bundle,
        backend=engine.backend,
        precision=engine.precision,
        max_batch=engine.max_batch,
        threads=engine.threads,
        streams=streams,
    )
    try:
        encode: list[tuple[float, float]] = []
        head: list[tuple[float, float]] = []
        for batch in batches(min(streams, opened.max_batch)):
            calls = engine_calls(opened, batch)
            for found, call in zip((encode, head), calls, strict=True):
                cost = measure(call, finish=calls[1], seconds=ROUND_S)
                found.append((cost.cpu_s / batch, cost.cpu_spread))
    finally:
        opened.close()
    decode = measure(_decoding(film), seconds=ROUND_S)
    (encode_s, encode_spread), (head_s, head_spread) = min(encode), min(head)
    return Limit(
        decode_s=decode.cpu_s / len(film.units),
        encode_s=encode_s,
        head_s=head_s,
        spread=max(decode.cpu_spread, encode_spread, head_spread),
    )


def batches(most: int) -> list[int]:
    """1, 2, 4, … and `most` itself."""
    sizes = [1]
    while sizes[-1] * 2 < most:
        sizes.append(sizes[-1] * 2)
    return sizes if most == 1 else [*sizes, most]


def engine_calls(engine: Engine, batch: int) -> tuple[Callable[[], None], Callable[[], None]]:
    """(encode, classify) of `batch` chunks and as many windows, on random pixels."""
    spec = engine.spec
    frames = np.random.default_rng(0).integers(0, 256, (batch, *spec.chunk_shape), np.uint8)
    slots = np.arange(batch, dtype=np.int32)
    windows = np.random.default_rng(1).integers(0, batch, (batch, spec.chunks)).astype(np.int32)

    def encode() -> None:
        engine.encode(frames, slots)

    def classify() -> None:
        engine.classify(windows)

    return encode, classify


def measure(
    call: Callable[[], None],
    *,
    finish: Callable[[], None] | None = None,
    seconds: float,
    rounds: int = ROUNDS,
) -> Cost:
    """Of one `call`, of many in a row, after one that is not counted.

    An encode may still be under way when its call returns: `finish`, which waits for it, ends each round, and one of it
    is taken off again.
    """
    finish_s = 0.0
    call()
    if finish is not None and finish is not call:
        finish()
        began = time.perf_counter()
        finish()
        finish_s = time.perf_counter() - began
    walls, cpus = [], []
    for _ in range(rounds):
        count, began, cpu_began = 0, time.perf_counter(), time.process_time()
        while not count or time.perf_counter() - began < seconds:
            call()
            count += 1
        cpus.append((time.process_time() - cpu_began) / count)
        if finish is not None and finish is not call:
            finish()
        walls.append(max(1e-9, time.perf_counter() - began - finish_s) / count)
    wall_s, cpu_s = statistics.median(walls), statistics.median(cpus)
    return Cost(wall_s=wall_s, cpu_s=cpu_s, wall_spread=_spread(walls), cpu_spread=_spread(cpus))


def _spread(values: list[float]) -> float:
    middle = statistics.median(values)
    return (max(values) - min(values)) / middle if middle > 0 else 0.0


def _decoding(film: Film) -> Callable[[], None]:
    """Decode the whole film once, as capture does: one thread, no delay."""
    import av

    packets = [b"".join(b"\0\0\0\1" + nal for nal in unit) for unit in film.units]

    def decode() -> None:
        decoder: Any = av.CodecContext.create("h264", "r")
        decoder.thread_type, decoder.thread_count = "NONE", 1
        decoder.options = {"flags": "low_delay"}
        pictures = 0
        for packet in packets:
            pictures += len(decoder.decode(av.Packet(packet)))
        pictures += len(decoder.decode(None))
        assert pictures == len(packets)  # the film is ours

    return decode
