"""Prove the GPU path in minutes: `python tests/gpu/prove.py OUT.jsonl device BUNDLE:PRECISION:BATCH[:live] ...`.

`device` checks the driver, the kernels, the scaling of pictures and CUDA graphs, and needs no TensorRT. A bundle is
opened, compared with PyTorch's answer for its golden clip, and with itself at every graph size, also with chunks from
the GPU's memory; then it is measured. `live` also runs 1,000 live streams (`--streams`). Each figure is one line of
JSON that is on the disk at once, so whatever ends the run, the figures before it stay. A part that fails does not end
the run. It needs neither pytest nor ONNX Runtime.

`decode:FILM:CAMERAS` decodes a film on the GPU in so many processes, without TensorRT. It compares pictures with those
of the CPU, and gives frames/s, cameras of 25 frames/s per card, and the GPU's memory that a process takes.

`--double` runs everything on the double of tests/support, without a GPU.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))  # before tests/, which has folders with the names of the packages

from support.gpu_pictures import LAUNCHES, PICTURES, scaled_pictures

import engines.backends.tensorrt
import engines.backends.tensorrt.requirements as requirements
import engines.opening
from engines.backends.tensorrt.interface import Cuda
from engines.bundle import load_bundle
from engines.opening import open_engine
from engines.parity import TOLERANCE, check_parity
from streamclf.bench.gpu.live_load import run_live_load
from streamclf.bench.gpu.part import MAX_LAG_S, measure_batches

ROOT: Final = Path(__file__).parents[2]
ROW_WORDS: Final = (1, 49, 768, 150528)
"""Row lengths: one word, an odd number, a feature of ViViT-B, and rows in which each thread moves several words."""
LIVE_S: Final = 5.0
ROUND_S: Final = 0.3

Say = Callable[..., None]


def open_log(path: Path) -> Say:
    """Return a function that writes its figures as one line of JSON and waits until the disk has it."""
    log, began = path.open("a", buffering=1), time.monotonic()

    def say(part: str, **figures: Any) -> None:
        line = json.dumps({"at_s": round(time.monotonic() - began, 1), "part": part, **figures}, default=str)
        log.write(line + "\n")
        os.fsync(log.fileno())
        print(line[:400], flush=True)

    return say


def prove_device(cuda: Cuda, say: Say, *, launches: int) -> None:
    """Check that kernels move the right rows, also when a graph replays them, and scale pictures as the host does."""
    say("device", gpu=asdict(cuda.gpu), adapter=type(cuda).__module__)
    with cuda.active():
        for words in ROW_WORDS:
            say("device", words=words, **_moved_rows(cuda, words))
        for form, size, target, resize in PICTURES:
            say("device", **scaled_pictures(cuda, form, size, target, resize, launches=launches))
    cuda.close()


def _moved_rows(cuda: Cuda, words: int) -> dict[str, Any]:
    """Gather 33 of 64 rows, scatter them again, by a captured graph; return whether each replay was right."""
    stream, random = cuda.stream(), np.random.default_rng(words)
    bank, rows = cuda.pinned((64, words), np.float32), cuda.pinned((33,), np.int32)
    gathered, scattered = cuda.pinned((33, words), np.float32), cuda.pinned((64, words), np.float32)
    at = [cuda.allocate(array.nbytes) for array in (bank, rows, gathered, scattered)]

    def work() -> None:
        cuda.upload(at[0], bank, stream)
        cuda.upload(at[1], rows, stream)
        cuda.gather_rows(at[2], at[0], at[1], 33, 4 * words, stream)
        cuda.clear(at[3], scattered.nbytes, stream)
        cuda.scatter_rows(at[3], at[2], at[1], 33, 4 * words, stream)
        cuda.download(gathered, at[2], stream)
        cuda.download(scattered, at[3], stream)

    def fill() -> np.ndarray[Any, Any]:
        bank[:] = random.standard_normal(bank.shape)
        rows[:] = random.permutation(64)[:33]
        expected = np.zeros_like(bank)
        expected[rows] = bank[rows]
        return expected

    fill()
    work()
    cuda.finish(stream)
    graph = cuda.capture(stream, work)
    right = []
    for _ in range(3):
        expected = fill()
        work() if graph is None else graph.launch(stream)
        cuda.finish(stream)
        right.append(bool((gathered == bank[rows]).all() and (scattered == expected).all()))
    for address in at:
        cuda.release(address)
    return {"captured": graph is not None, "right": right}


def prove_bundle(
    path: Path, precision: str, batch: int, say: Say, *, streams: int, live_s: float, round_s: float
) -> None:
    """Compare one bundle with PyTorch and with itself at every batch size, and measure it. `streams`: 0 for none."""
    bundle = load_bundle(path)
    name, began = f"{bundle.spec.name}/{precision}", time.monotonic()
    engine = open_engine(
        bundle,
        backend="tensorrt",
        precision=precision,  # type: ignore[arg-type]  # open_engine checks it
        max_batch=batch,
        bank_slots=max(batch, streams * (bundle.spec.chunks + 1)),
        streams=max(1, streams),
    )
    try:
        parity = check_parity(engine, bundle.golden())
        say(
            name,
            engine=engine.description,
            open_s=round(time.monotonic() - began, 1),
            max_batch=engine.max_batch,
            max_dp=parity.max_dp,
            allowed=TOLERANCE[engine.precision],
        )
        say(name, **_batch_differences(engine))
        say(name, **_chunks_of_the_device(engine))
        for size in sorted({1, min(8, engine.max_batch), min(32, engine.max_batch), engine.max_batch}, reverse=True):
            say(name, **measure_batches(engine, [size], seconds=round_s)[0])
        if streams:
            chunks_per_s = bundle.spec.fps / bundle.spec.frames_per_chunk
            say(
                name,
                live=run_live_load(
                    engine, streams=streams, chunks_per_s=chunks_per_s, seconds=live_s, max_lag_s=MAX_LAG_S
                ),
            )
    finally:
        engine.close()


def _batch_differences(engine: Any) -> dict[str, Any]:
    """Encode the same chunks in batches of every size, in random order, twice; compare with the largest batch."""
    most = engine.max_batch
    frames = np.random.default_rng(1).integers(0, 256, (most, *engine.spec.chunk_shape), np.uint8)
    slots = np.arange(most, dtype=np.int32)
    engine.encode(frames, slots)
    expected = engine.read_features(slots)
    differences: dict[int, float] = {}
    for size in range(1, most + 1) if most <= 16 else sorted({1, 2, 3, 5, 7, 12, 24, most // 2, most - 1, most}):
        for seed in range(2):
            part = np.random.default_rng(size + seed).permutation(most)[:size].astype(np.int32)
            engine.encode(frames[part], part)
            difference = float(np.abs(engine.read_features(part) - expected[part]).max())
            differences[size] = max(differences.get(size, 0.0), difference)
    return {"difference_from_largest_batch": differences, "largest_feature": float(np.abs(expected).max())}


def _chunks_of_the_device(engine: Any) -> dict[str, Any]:
    """Compare chunks that another context writes into the engine's memory with chunks from the host's memory."""
    most = engine.max_batch
    frames = np.random.default_rng(2).integers(0, 256, (most, *engine.spec.chunk_shape), np.uint8)
    slots = np.arange(most, dtype=np.int32)
    engine.encode(frames, slots)
    expected, memory = engine.read_features(slots), engine.share_memory(most)
    cuda = requirements.open_cuda("")
    with cuda.active():
        stream, pinned = cuda.stream(), cuda.pinned(frames.shape, np.uint8)
        pinned[:] = frames
        address = cuda.open_shared(memory.fd, memory.nbytes)
        for index in range(most):
            cuda.upload(address + index * memory.stride, pinned[index], stream)
        cuda.finish(stream)
        del pinned, stream
    began = time.perf_counter()
    for index in range(most):
        engine.fetch(memory, index, index)
    fetched_s = time.perf_counter() - began
    engine.encode_device(slots)
    difference = float(np.abs(engine.read_features(slots) - expected).max())
    cuda.close()
    memory.close()
    return {"difference_of_device_chunks": difference, "fetch_us": round(fetched_s / most * 1e6, 1)}


def prove_decoding(film: Path, cameras: int, say: Say, *, seconds: float, double: bool) -> None:
    """Decode a film in `cameras` processes at the same time."""
    part, options = f"decode/{cameras}", [str(film), str(seconds), *(["--double"] if double else [])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "tests")))}
    with tempfile.TemporaryDirectory() as folder:
        if double:
            from support.cuda_driver import build_driver

            build_driver(Path(folder))
            environment["LD_LIBRARY_PATH"] = folder
        cuda = requirements.open_cuda("")
        with cuda.active():
            free = cuda.free_bytes()
            command = [sys.executable, "-m", "support.gpu_decoding", *options]
            children = [
                subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
                for _ in range(cameras)
            ]
            try:
                lines = [child.stdout.readline() for child in children if child.stdout]
                taken = free - cuda.free_bytes()
            finally:
                for child in children:
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        child.communicate(timeout=10)
                    child.kill()
        cuda.close()
    found = [json.loads(line) for line in lines if line]
    if len(found) < cameras:
        say(part, failed=cameras - len(found))
    if found:
        rate = sum(each["frames_per_s"] for each in found)
        counts = {name: sum(each[name] for each in found) for name in ("sampled", "decoded_on_gpu", "scaled_on_gpu")}
        say(
            part,
            largest_difference=max(each["largest_difference"] for each in found),
            frames_per_s=round(rate, 1),
            cameras_of_25_per_card=round(rate / 25),
            mib_per_process=round(taken / cameras / 2**20, 1),
            **counts,
        )


def use_double() -> None:
    """Replace the GPU and TensorRT by the doubles of tests/support."""
    from support.gpu_double import DoubleCuda, double_platform

    requirements.open_cuda = lambda *_: DoubleCuda(memory_bytes=4 << 30)  # type: ignore[assignment]
    engines.backends.tensorrt.load_platform = lambda *_: double_platform(memory_bytes=4 << 30)  # type: ignore[assignment]
    engines.opening.missing_libraries = lambda backend: []  # type: ignore[assignment]


def main(arguments: list[str] | None = None) -> int:
    """Run the parts in order; return 1 if one has failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("log", type=Path, help="file to which the figures are appended, JSON lines")
    parser.add_argument("parts", nargs="+", help="device, decode:FILM:CAMERAS, or BUNDLE:PRECISION:BATCH[:live]")
    parser.add_argument("--double", action="store_true", help="run on the double, without a GPU")
    parser.add_argument("--streams", type=int, default=1000, help="live streams of a part that ends in :live")
    parser.add_argument("--live-s", type=float, default=LIVE_S, help="seconds for which they are measured")
    parser.add_argument("--round-s", type=float, default=ROUND_S, help="seconds of each other measurement")
    options = parser.parse_args(arguments)
    if options.double:
        use_double()
    say, failed = open_log(options.log), 0
    for part in options.parts:
        try:
            if part.startswith("decode:"):
                _, film, cameras = part.split(":")
                prove_decoding(Path(film), int(cameras), say, seconds=options.live_s, double=options.double)
            elif part == "device":
                prove_device(requirements.open_cuda(""), say, launches=1 if options.double else LAUNCHES)
            else:
                path, precision, batch, *live = part.split(":")
                prove_bundle(
                    Path(path), precision, int(batch), say,
                    streams=options.streams if live else 0, live_s=options.live_s, round_s=options.round_s,
                )  # fmt: skip
        except Exception as error:  # noqa: PERF203 - the next part may still prove something
            failed = 1
            say(part, error=f"{type(error).__name__}: {error}"[:600], traceback=traceback.format_exc()[-900:])
    return failed


if __name__ == "__main__":
    sys.exit(main())
