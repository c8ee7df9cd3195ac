"""Measure what a motion gate saves and costs: `PYTHONPATH=tests python -m benchmarks.motion_gate MODEL FILE...`.

Each film goes through ring, feed and classifier as a live stream does, chunk by chunk, once for each threshold. The
probabilities are compared with those of a run without a gate. Only the processor time of the classifier's steps counts.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
from support.serving import serve_engines

from engines.arrays import U8
from engines.opening import open_engine
from engines.protocol import Engine
from streamclf.builtin_models import find_bundle
from streamclf.classifier.classifier import Classifier
from streamclf.classifier.feed import Feed, bank_slots, ring_slots
from streamclf.classifier.motion_gate import motion_between
from streamclf.classifier.offline import file_chunks
from streamclf.config.classify import StreamSettings
from streamclf.events.drafts import Draft
from streamclf.windows.ring import RingReader, RingWriter, create_ring
from streamclf.windows.sampling import ChunkMeta

THRESHOLDS: Final = (0.0, 1.0, 2.0, 4.0, 8.0)
MAX_CHUNKS: Final = 600
ROUNDS: Final = 3
"""Each round runs every threshold, so that other load on the machine slows all of them. The fastest round counts."""

Chunk = tuple[ChunkMeta, U8]


class Posted:
    """Record the probabilities by the end of their window, and the number of gated chunks in the newest prediction."""

    def __init__(self) -> None:
        self.top: dict[float, dict[str, float]] = {}
        self.gated = 0

    def post_all(self, drafts: Sequence[Draft]) -> None:
        """Record drafts in place of the link."""
        for draft in drafts:
            window: Any = draft.body["window"]
            self.top[window["end_s"]] = dict(draft.body["top"])
            self.gated = int(draft.body.get("gated", 0))


def play(engine: Engine, chunks: Sequence[Chunk], threshold: float) -> tuple[float, Posted]:
    """Return (processor seconds of the classifier, its predictions)."""
    spec = engine.spec
    fd = create_ring(ring_slots(spec), spec.chunk_shape)
    writer, reader = RingWriter(fd), RingReader(fd)
    os.close(fd)
    wake_read, wake_write = os.pipe()
    settings = StreamSettings(hop=1, motion_gate=threshold)
    feed = Feed(stream="film", reader=reader, wake_fd=wake_read, spec=spec, settings=settings, index=0)
    posted = Posted()
    classifier = Classifier(serve_engines({"": engine}), [feed], posted)  # type: ignore[arg-type]
    taken_ns = 0
    for meta, pixels in chunks:
        writer.begin()[:] = pixels
        writer.commit(meta)
        began = time.process_time_ns()
        classifier.step()
        taken_ns += time.process_time_ns() - began
    for end in (wake_read, wake_write):
        os.close(end)
    return taken_ns / 1e9, posted


def chunks_of(engine: Engine, path: Path) -> list[Chunk]:
    """Return the film as chunks of the model, at most `MAX_CHUNKS`."""
    with closing(file_chunks(engine.spec, path)) as found:
        return list(islice(found, MAX_CHUNKS))


def top_label(top: dict[str, float]) -> str:
    """Return the most probable label."""
    return max(top, key=top.__getitem__)


def report(engine: Engine, path: Path) -> None:
    """Print the table of one film."""
    chunks = chunks_of(engine, path)
    steps = [motion_between(a, b) for (_, a), (_, b) in pairwise(chunks)]
    quarters = ", ".join(f"{np.quantile(steps, q):.1f}" for q in (0.1, 0.5, 0.9))
    print(f"\n{path.name}, {engine.spec.id}, {engine.description}: {len(chunks)} chunks")
    print(f"motion from one to the next, grey levels, 10th, 50th, 90th percentile: {quarters}")
    print("threshold | chunks reused | CPU ms per chunk | of exact | same top-1 | mean |dp| | max |dp|")
    least: dict[float, float] = {}
    posted: dict[float, Posted] = {}
    for _ in range(ROUNDS):
        for threshold in THRESHOLDS:
            taken_s, posted[threshold] = play(engine, chunks, threshold)
            least[threshold] = min(taken_s, least.get(threshold, taken_s))
    exact = posted[0.0].top
    for threshold in THRESHOLDS:
        found = posted[threshold].top
        assert found.keys() == exact.keys()
        differences = [max(abs(found[end].get(label, 0) - p) for label, p in exact[end].items()) for end in exact]
        same = np.mean([top_label(found[end]) == top_label(exact[end]) for end in exact])
        print(
            f"{threshold:g} | {100 * posted[threshold].gated / len(chunks):.1f} % | "
            f"{1e3 * least[threshold] / len(chunks):.2f} | {least[threshold] / least[0.0]:.2f} | {100 * same:.1f} % | "
            f"{np.mean(differences):.4f} | {max(differences):.3f}"
        )


def main(model: str, *films: str) -> None:
    """Print a table for each film."""
    bundle = find_bundle(model)
    engine = open_engine(bundle, precision="fp32", max_batch=4, bank_slots=bank_slots(bundle.spec), threads=1)
    for film in films:
        report(engine, Path(film))
    engine.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
