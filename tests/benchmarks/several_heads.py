"""Measure what further models of one encoder cost: `PYTHONPATH=tests python -m benchmarks.several_heads MODEL`.

Compares, side by side: one model; four models with the same encoder in one classifier; and the same four models, each
in a classifier process of its own. Each process serves eight feeds with the frames of the model's golden clip, as fast
as it can, through rings, feeds and engines. The processes of one case run one after the other. The table has sums over
them: the processor time for each window of the feeds, chunks encoded for each chunk of the feeds, predictions for each
second, and the private memory.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from support.bundles import make_reversed

from engines.arrays import U8
from engines.bundle import Bundle, load_bundle
from engines.group import GroupOptions
from engines.serving import open_serving
from streamclf.builtin_models import find_bundle
from streamclf.classifier.classifier import Classifier
from streamclf.classifier.feed import Feed, bank_slots, ring_slots
from streamclf.config.classify import HeadSettings, StreamSettings
from streamclf.events.drafts import Draft
from streamclf.runtime.memory_limit import private_bytes
from streamclf.windows.ring import RingReader, RingWriter, create_ring
from streamclf.windows.sampling import ChunkMeta

MODELS: Final = 4
FEEDS: Final = 8
CHUNKS: Final = 200
"""Chunks of each feed in one round."""
ROUNDS: Final = 3
"""Each round runs every case, so that other load on the machine slows all of them. The fastest round counts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One process's part of a round: processor and wall time in seconds, counts, and private memory in bytes."""

    cpu_s: float
    wall_s: float
    encoded: int
    predictions: int
    memory: int


class Counter:
    """Count predictions in place of the link to the hub."""

    predictions = 0

    def post_all(self, drafts: Sequence[Draft]) -> None:
        """Count drafts."""
        self.predictions += sum(draft.type == "prediction" for draft in drafts)


class RingFeed:
    """One feed whose ring this process fills."""

    def __init__(self, bundle: Bundle, index: int, models: Sequence[str]) -> None:
        spec = bundle.spec
        fd = create_ring(ring_slots(spec), spec.chunk_shape)
        self._writer, reader = RingWriter(fd), RingReader(fd)
        os.close(fd)
        wake, self.wake_write = os.pipe()
        heads = {name: HeadSettings() for name in models}
        self.feed = Feed(
            stream=f"cam{index}", reader=reader, wake_fd=wake, spec=spec, settings=StreamSettings(hop=1),
            index=index, heads=heads,
        )  # fmt: skip

    def write(self, number: int, chunk: U8) -> None:
        """Write the next chunk."""
        self._writer.begin()[:] = chunk
        self._writer.commit(
            ChunkMeta(
                segment=1, index=number, start_pts_ns=number, end_pts_ns=number + 1, captured_ns=time.monotonic_ns(),
                frames=len(chunk), duplicates=0, corrupt=0,
            )
        )  # fmt: skip


def serve(paths: Sequence[str]) -> Run:
    """Serve the feeds with the bundles at `paths` in this process."""
    bundles = {f"m{i}": load_bundle(Path(path)) for i, path in enumerate(paths)}
    first = bundles["m0"]
    serving = open_serving(bundles, GroupOptions(bank_slots=FEEDS * bank_slots(first.spec), streams=FEEDS))
    feeds = [RingFeed(first, index, list(bundles)) for index in range(FEEDS)]
    posted = Counter()
    classifier = Classifier(serving, [each.feed for each in feeds], posted)  # type: ignore[arg-type]
    owner: Any = serving.group.owner
    encode, encoded = owner.encode, [0]

    def count(frames: U8, slots: Any) -> None:
        encoded[0] += len(slots)
        encode(frames, slots)

    owner.encode = count
    frames = first.golden().frames
    for number in range(20):
        play(classifier, feeds, frames, number)
    encoded[0] = posted.predictions = 0
    began, began_cpu = time.perf_counter(), time.process_time()
    for number in range(20, 20 + CHUNKS):
        play(classifier, feeds, frames, number)
    run = Run(
        cpu_s=time.process_time() - began_cpu,
        wall_s=time.perf_counter() - began,
        encoded=encoded[0],
        predictions=posted.predictions,
        memory=private_bytes(os.getpid()) or 0,
    )
    classifier.close()
    return run


def play(classifier: Classifier, feeds: Sequence[RingFeed], frames: U8, number: int) -> None:
    """Give each feed a chunk, and serve them."""
    for index, feed in enumerate(feeds):
        feed.write(number, frames[(number + index) % len(frames)])
    while classifier.step():
        pass


def in_processes(groups: Sequence[Sequence[Path]]) -> list[Run]:
    """Serve each group in a process of its own, one after the other."""
    runs = []
    for group in groups:
        command = [sys.executable, "-m", "benchmarks.several_heads", "--serve", *map(str, group)]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        runs.append(Run(**json.loads(output.splitlines()[-1])))
    return runs


def main(model: str) -> None:
    """Print the table for one model."""
    bundle = find_bundle(model)
    with tempfile.TemporaryDirectory() as folder:
        others = [make_reversed(Path(folder) / f"head{i}", bundle).path for i in range(1, MODELS)]
        paths = [bundle.path, *others]
        cases = {
            "one model": [paths[:1]],
            f"{MODELS} models, one process": [paths],
            f"{MODELS} models, {MODELS} processes": [[path] for path in paths],
        }
        rounds: dict[str, list[list[Run]]] = {name: [] for name in cases}
        for _ in range(ROUNDS):
            for name, groups in cases.items():
                rounds[name].append(in_processes(groups))
    windows = FEEDS * CHUNKS
    print(f"{bundle.spec.id}: {FEEDS} feeds")
    print("| case | ms of processor per window | encodes per chunk | predictions/s | memory, MB |")
    print("|---|---|---|---|---|")
    for name, runs in rounds.items():
        best = min(runs, key=lambda run: sum(each.cpu_s for each in run))
        cpu_ms = sum(each.cpu_s for each in best) / windows * 1e3
        encodes = sum(each.encoded for each in best) / windows
        rate = sum(each.predictions for each in best) / sum(each.wall_s for each in best)
        memory = float(np.median([sum(each.memory for each in run) for run in runs])) / 1e6
        print(f"| {name} | {cpu_ms:.3f} | {encodes:.0f} | {rate:,.0f} | {memory:,.0f} |")


if __name__ == "__main__":
    if sys.argv[1] == "--serve":
        run = serve(sys.argv[2:])
        print(json.dumps({name: getattr(run, name) for name in Run.__slots__}))
    else:
        main(sys.argv[1])
