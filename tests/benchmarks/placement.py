"""Measure placement with 10,000 streams and 200 nodes: seconds per decision, and streams that move after a failure.

    python tests/benchmarks/placement.py [--streams 10000] [--nodes 200] [--failures 20]

It needs no cluster: the decisions are those of the controller, on simulated nodes.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from streamclf.fleet.core import FleetCore
from streamclf.fleet.messages import Health, Report
from streamclf.fleet.placement import Capacity, Demand, load_of, next_move, place
from streamclf.fleet.store import Store

SITES = 20


@contextmanager
def timed(name: str) -> Iterator[None]:
    began = time.perf_counter()
    yield
    print(f"{name:<66} {time.perf_counter() - began:8.3f} s")


def simulate(policy: str, streams: int, nodes: int, failures: int) -> None:
    """Place everything, fail nodes one at a time, then let them return."""
    random.seed(1)
    demands = {
        f"cam{n}": Demand(stream=f"cam{n}", cpus=random.choice((0.04, 0.08, 0.16)), near=f"site{n % SITES}")
        for n in range(streams)
    }
    need = sum(each.cpus for each in demands.values())
    all_nodes = [Capacity(node=f"n{n}", cpus=1.4 * need / nodes, site=f"site{n % SITES}") for n in range(nodes)]
    print(f"{policy}: {streams} streams take {need:.0f} processors, {nodes} nodes have {1.4 * need:.0f}, {SITES} sites")
    with timed("  first placement"):
        placed, unplaced = place(demands.values(), all_nodes, {}, policy)
    assert not unplaced
    alive, moves, slowest = [*all_nodes], [], 0.0
    for failed in random.sample(all_nodes, failures):
        alive.remove(failed)
        lost = [demands[stream] for stream, node in placed.items() if node == failed.node]
        present: dict[str, list[Demand]] = {node.node: [] for node in alive}
        for stream, node in placed.items():
            if node != failed.node:
                present[node].append(demands[stream])
        began = time.perf_counter()
        found, unplaced = place(lost, alive, present, policy)
        slowest = max(slowest, time.perf_counter() - began)
        placed |= found
        moves.append(len(found))
        assert len(found) + len(unplaced) == len(lost)
        for each in unplaced:
            placed.pop(each.stream)
    print(
        f"  {failures} nodes fail in turn: {sum(moves) / failures:.1f} moves per failure, at most {max(moves)}, all of"
    )
    print(f"  them streams of the failed node; slowest decision {slowest:.3f} s; {streams - len(placed)} without room")
    present = {node.node: [] for node in all_nodes}
    for stream, node in placed.items():
        present[node].append(demands[stream])
    count, slowest = 0, 0.0
    while count < 200:
        began = time.perf_counter()
        move = next_move(all_nodes, present, policy)
        slowest = max(slowest, time.perf_counter() - began)
        if move is None:
            break
        present[move.source].remove(demands[move.stream])
        present[move.target].append(demands[move.stream])
        count += 1
    loads = [load_of(node, present[node.node]) for node in all_nodes]
    print(
        f"  they return: the first {count} moves, slowest {slowest:.3f} s; loads {min(loads):.2f} to {max(loads):.2f}"
    )


def measure_controller(streams: int, nodes: int) -> None:
    """Measure the controller as a whole: one report of a node, the directory, and its state on disk."""
    from support.fleet_simulation import make_setup

    with tempfile.TemporaryDirectory() as folder:
        core = FleetCore(Store(Path(folder)), now_s=0.0)
        with timed(f"controller: configure {streams} streams, written to disk"):
            core.configure(make_setup(streams, cpus=0.08), now_s=0.0)
        specs: dict[str, str] = {}
        held: dict[str, dict[str, int]] = {}

        def report(n: int, seq: int) -> None:
            answer = core.report(
                Report(
                    session=f"s{n}", node=f"n{n}", boot="b", host="10.0.0.1", cpus=8.0, held=held.get(f"n{n}", {}),
                    spec=specs.get(f"n{n}", ""), applied=specs.get(f"n{n}", ""), health=Health(),
                ),
                seq, now_s=float(seq),
            )  # fmt: skip
            held[f"n{n}"] = dict(answer.tokens)
            if answer.spec:
                specs[f"n{n}"] = answer.spec.version

        core.expected_nodes = nodes
        for seq in (1, 2):
            for n in range(nodes):
                report(n, seq)
        with timed("controller: place and grant all streams, written to disk"):
            core.tick(now_s=2.5)
        for n in range(nodes):
            report(n, 3)
        began = time.perf_counter()
        for n in range(nodes):
            report(n, 4)
        each = (time.perf_counter() - began) / nodes
        print(f"{'controller: processor time of one report':<66} {each:8.4f} s; {nodes} take {each * nodes:.0%} of one")
        with timed("controller: a tick without a change"):
            core.tick(now_s=4.2)
        with timed("controller: make the directory"):
            directory = core.directory()
        with timed("controller: write the directory as JSON"):
            size = len(directory.model_dump_json())
        print(f"{'controller: size of the directory':<66} {size / 1e6:8.2f} MB")
        for n in range(1, nodes):
            report(n, 8)
        with timed("controller: a node is lost, its streams are granted elsewhere"):
            core.tick(now_s=10.6)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, default=10_000)
    parser.add_argument("--nodes", type=int, default=200)
    parser.add_argument("--failures", type=int, default=20)
    options = parser.parse_args()
    for chosen in ("spread", "pack"):
        simulate(chosen, options.streams, options.nodes, options.failures)
    measure_controller(options.streams, options.nodes)
