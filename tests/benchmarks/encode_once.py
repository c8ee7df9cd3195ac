"""What a prediction costs when one token is new, beside the whole window.

    PYTHONPATH=tests python -m benchmarks.encode_once BUNDLE

Both ways in turn, so that a busy machine slows both: one encode and one head, and as many encodes as a window has
tokens, in batches of several sizes, and one head. The same numbers come out; what differs is what is computed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from engines.bundle import load_bundle
from engines.engine import open_engine


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
        max_batch=spec.tokens,
        bank_slots=spec.tokens,
    )
    tokens = np.random.default_rng(1).integers(0, 256, (spec.tokens, *spec.token_shape), np.uint8)
    window = np.arange(spec.tokens, dtype=np.int32)

    def once() -> None:
        engine.encode(tokens[-1:], window[-1:])
        engine.classify(window[None])

    def whole(batch: int) -> None:
        for begin in range(0, spec.tokens, batch):
            engine.encode(tokens[begin : begin + batch], window[begin : begin + batch])
        engine.classify(window[None])

    batches = [batch for batch in (1, 2, 4, 8, 16, 32) if batch <= spec.tokens]
    for batch in batches:
        whole(batch)  # warm, and the bank is full
    seconds: dict[str, list[float]] = {"once": [], **{f"whole in {batch}": [] for batch in batches}}
    for _ in range(arguments.rounds):
        seconds["once"].append(_timed(once))
        for batch in batches:
            seconds[f"whole in {batch}"].append(_timed(lambda batch=batch: whole(batch)))
    engine.close()
    medians = {name: 1e3 * statistics.median(all_of) for name, all_of in seconds.items()}
    best = min(medians[f"whole in {batch}"] for batch in batches)
    figures = {"model": spec.id, "engine": engine.description, "tokens": spec.tokens, "ms": medians}
    print(json.dumps({**figures, "times_cheaper": best / medians["once"]}))


def _timed(what: Callable[[], None]) -> float:
    began = time.perf_counter()
    what()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
