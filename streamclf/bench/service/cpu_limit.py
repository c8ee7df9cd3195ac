"""Measure the least processor time that a service needs: decode, encode and classify, each alone in a tight loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, get_args

import av

from engines.bundle import Bundle
from engines.opening import open_engine
from streamclf.bench.cameras.film import EncodedFilm
from streamclf.bench.timing import batch_sizes, engine_calls, time_calls
from streamclf.config.engine import EngineConfig
from streamclf.sources.decoding import Decoding, WantedDecoding

ROUND_S: Final = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class CpuLimit:
    """Seconds of processor time, of all threads, for one decoded frame, one encoded chunk and one classified window.

    `spread` is the largest of the spreads over the rounds, each (highest - lowest) / median.
    """

    exact_s: float
    """One frame, decoded exactly."""
    fast_s: float
    """One frame, decoded fast."""
    encode_s: float
    head_s: float
    spread: float

    def decode_s(self, fast_share: float) -> float:
        """Return the time for one frame if `fast_share` (0 to 1) of all frames are decoded fast."""
        return self.exact_s + (self.fast_s - self.exact_s) * fast_share

    def cpu_s_per_s(
        self, *, frames_per_s: float, chunks_per_s: float, windows_per_s: float, fast_share: float
    ) -> float:
        """Return the processor time, in seconds per second, that this much work needs at least."""
        return self.decode_s(fast_share) * frames_per_s + self.encode_s * chunks_per_s + self.head_s * windows_per_s


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
    exact, fast = (
        time_calls(_decoder_call(film, WantedDecoding(decoding).options("h264")), seconds=ROUND_S)
        for decoding in get_args(Decoding)
    )
    (encode_s, encode_spread), (head_s, head_spread) = min(encode), min(head)
    return CpuLimit(
        exact_s=exact.cpu_s / len(film.units),
        fast_s=fast.cpu_s / len(film.units),
        encode_s=encode_s,
        head_s=head_s,
        spread=max(exact.cpu_spread, fast.cpu_spread, encode_spread, head_spread),
    )


def _decoder_call(film: EncodedFilm, options: Mapping[str, str]) -> Callable[[], None]:
    """Return a function that decodes the whole film once with `decode_film`."""

    def decode() -> None:
        assert sum(1 for _ in decode_film(film, options)) == len(film.units)  # `make_film` encoded it

    return decode


def decode_film(film: EncodedFilm, options: Mapping[str, str]) -> Iterator[av.VideoFrame]:
    """Decode a film as capture does: one thread, no delay, and these options of the decoder."""
    decoder: Any = av.CodecContext.create("h264", "r")
    decoder.thread_type, decoder.thread_count = "NONE", 1
    decoder.options = {"flags": "low_delay", **options}
    for unit in film.units:
        yield from decoder.decode(av.Packet(b"".join(b"\0\0\0\1" + nal for nal in unit)))
    yield from decoder.decode(None)
