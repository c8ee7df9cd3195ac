"""Measure what a further model costs on the same streams: `python tests/benchmarks/several_models.py`.

Three services run one after the other, in several rounds: one model, two models with different encoders, and two with
the same encoder. The figures are processor time per stream, in ms per second, of all captures and of all classifiers.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

from streamclf.bench.cameras.film import FilmSpec, make_film, save_film
from streamclf.bench.service.run import ServiceLoad, measure_service
from streamclf.builtin_models import find_bundle
from streamclf.config.engine import EngineConfig


def main() -> None:
    """Print one row for each service: the median of the rounds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", default="camera-events")
    parser.add_argument("--other", default="gestures", help="a model with another encoder")
    args = parser.parse_args()
    one, other = find_bundle(args.model), find_bundle(args.other)
    cases = {"one model": {}, "two encoders": {"other": other}, "one encoder, two heads": {"again": one}}
    spec = FilmSpec(width=1280, height=720, fps=25)
    found: dict[str, list[tuple[float, ...]]] = {name: [] for name in cases}
    with tempfile.TemporaryDirectory() as name:
        film = Path(name) / "film"
        save_film(make_film(spec), film)
        for _ in range(args.rounds):
            for case, further in cases.items():
                load = ServiceLoad(
                    bundle=one,
                    further=further,
                    engine=EngineConfig(),
                    streams=args.streams,
                    film=spec,
                    hop=1,
                    seconds=args.seconds,
                )
                run = measure_service(load, film, Path(tempfile.mkdtemp(dir=name)))
                cpu = [
                    1e3
                    / args.streams
                    * sum(each.cpu_s_per_s for each in run.usage.usages if each.name.startswith(kind))
                    for kind in ("capture", "classifier", "")
                ]
                memory = sum(each.memory[-1].rss_mb for each in run.usage.usages)
                count = sum(map(len, run.received.values())) + sum(map(len, run.received_further.values()))
                found[case].append(
                    (*(each / args.streams for each in cpu), memory, float(count), float(sum(run.drops.values())))
                )
    print(f"{'':24} capture  classifier  all   MB    predictions  drops")
    for case, rows in found.items():
        capture, classifier, total, memory, count, drops = (
            statistics.median(column) for column in zip(*rows, strict=True)
        )
        print(f"{case:24} {capture:7.1f}  {classifier:10.1f}  {total:4.0f}  {memory:4.0f}  {count:11.0f}  {drops:5.0f}")


if __name__ == "__main__":
    main()
