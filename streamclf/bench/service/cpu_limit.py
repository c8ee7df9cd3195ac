"""Measure the processor time that a machine needs at least: decode, encode and classify alone in tight loops."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from engines.bundle import Bundle
from engines.opening import open_engine
from streamclf.bench.cameras.film import Film
from streamclf.bench.timing import batch_sizes, engine_calls, measure
from streamclf.config.service import EngineConfig

ROUND_S: Final = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class CpuLimit:
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


def measure_cpu_limit(bundle: Bundle, engine: EngineConfig, film: Film, *, streams: int) -> CpuLimit:
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
        for batch in batch_sizes(min(streams, opened.max_batch)):
            calls = engine_calls(opened, batch)
            for found, call in zip((encode, head), calls, strict=True):
                cost = measure(call, finish=calls[1], seconds=ROUND_S)
                found.append((cost.cpu_s / batch, cost.cpu_spread))
    finally:
        opened.close()
    decode = measure(_decoding(film), seconds=ROUND_S)
    (encode_s, encode_spread), (head_s, head_spread) = min(encode), min(head)
    return CpuLimit(
        decode_s=decode.cpu_s / len(film.units),
        encode_s=encode_s,
        head_s=head_s,
        spread=max(decode.cpu_spread, encode_spread, head_spread),
    )


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
