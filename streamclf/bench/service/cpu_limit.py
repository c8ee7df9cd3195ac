"""Measure the least processor time that a service needs: decode, encode and classify, each alone in a tight loop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from engines.bundle import Bundle
from engines.opening import open_engine
from streamclf.bench.cameras.film import EncodedFilm
from streamclf.bench.timing import batch_sizes, engine_calls, time_calls
from streamclf.config.engine import EngineConfig

ROUND_S: Final = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class CpuLimit:
    """Seconds of processor time, of all threads, for one decoded frame, one encoded chunk and one classified window.

    `spread` is the largest of the three spreads over the rounds, each (highest - lowest) / median.
    """

    decode_s: float
    encode_s: float
    head_s: float
    spread: float

    def cpu_s_per_s(self, *, frames_per_s: float, chunks_per_s: float, windows_per_s: float) -> float:
        """Return the processor time, in seconds per second, that this much work needs at least."""
        return self.decode_s * frames_per_s + self.encode_s * chunks_per_s + self.head_s * windows_per_s


def measure_cpu_limit(bundle: Bundle, engine: EngineConfig, film: EncodedFilm, *, streams: int) -> CpuLimit:
    """Measure with an engine opened as the service would open it for `streams` streams.

    Encode and classify count at their cheapest batch size among the sizes that this many streams can fill.
    """
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
        for batch in batch_sizes(min(streams, opened.max_batch)):
            calls = engine_calls(opened, batch)
            for costs, call in zip((encode, head), calls, strict=True):
                cost = time_calls(call, finish=calls[1], seconds=ROUND_S)
                costs.append((cost.cpu_s / batch, cost.cpu_spread))
    finally:
        opened.close()
    decode = time_calls(_decoder_call(film), seconds=ROUND_S)
    (encode_s, encode_spread), (head_s, head_spread) = min(encode), min(head)
    return CpuLimit(
        decode_s=decode.cpu_s / len(film.units),
        encode_s=encode_s,
        head_s=head_s,
        spread=max(decode.cpu_spread, encode_spread, head_spread),
    )


def _decoder_call(film: EncodedFilm) -> Callable[[], None]:
    """Return a function that decodes the whole film once as capture does: one thread, no delay."""
    import av

    packets = [b"".join(b"\0\0\0\1" + nal for nal in unit) for unit in film.units]

    def decode() -> None:
        decoder: Any = av.CodecContext.create("h264", "r")
        decoder.thread_type, decoder.thread_count = "NONE", 1
        decoder.options = {"flags": "low_delay"}
        frames = 0
        for packet in packets:
            frames += len(decoder.decode(av.Packet(packet)))
        frames += len(decoder.decode(None))
        assert frames == len(packets)  # `make_film` encoded it

    return decode
