"""Compare the cost of a prediction when one chunk is new with the cost of the whole window.

    PYTHONPATH=tests python -m benchmarks.encode_once BUNDLE

Both ways run in turn, so that other load on the machine slows both. One way is one encode and one head. The other is
an encode for each chunk of the window, in batches of several sizes, and one head. Both give the same probabilities.
`once of 8` is the share of one prediction when one encode takes the new chunks of eight streams, and one head their
windows.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np

from engines.bundle import load_bundle
from engines.opening import open_engine

STREAMS = (1, 4, 8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    bundle = load_bundle(arguments.bundle)
    spec = bundle.spec
    engine = open_engine(
        bundle,
        backend=arguments.backend,
        precision=arguments.precision,
        max_batch=max(spec.chunks, *STREAMS),
        bank_slots=max(STREAMS) * spec.chunks,
    )
    chunks = np.random.default_rng(1).integers(0, 256, (spec.chunks, *spec.chunk_shape), np.uint8)
    windows = np.arange(max(STREAMS) * spec.chunks, dtype=np.int32).reshape(-1, spec.chunks)
    window = windows[0]

    def once(streams: int) -> None:
        engine.encode(chunks[:streams], windows[:streams, -1])
        engine.classify(windows[:streams])

    def whole(batch: int) -> None:
        for begin in range(0, spec.chunks, batch):
            engine.encode(chunks[begin : begin + batch], window[begin : begin + batch])
        engine.classify(window[None])

    batches = [batch for batch in (1, 2, 4, 8, 16, 32) if batch <= spec.chunks]
    for batch in batches:
        whole(batch)  # warm up
    for streams in STREAMS:
        for own in windows[:streams]:
            engine.encode(chunks, own)
        once(streams)
    seconds: dict[str, list[float]] = defaultdict(list)
    for _ in range(arguments.rounds):
        for streams in STREAMS:
            seconds[f"once of {streams}"].append(_timed(lambda streams=streams: once(streams)) / streams)
        for batch in batches:
            seconds[f"whole in {batch}"].append(_timed(lambda batch=batch: whole(batch)))
    engine.close()
    medians = {name: 1e3 * statistics.median(all_of) for name, all_of in seconds.items()}
    best = min(medians[f"whole in {batch}"] for batch in batches)
    cheaper = {f"of {streams}": best / medians[f"once of {streams}"] for streams in STREAMS}
    figures = {"model": spec.id, "engine": engine.description, "chunks": spec.chunks, "ms": medians}
    print(json.dumps({**figures, "times_cheaper": cheaper}))


def _timed(call: Callable[[], None]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
