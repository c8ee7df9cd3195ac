"""Placement: capacity is never exceeded, moves end, and a shortage says what would hold the rest."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamclf.fleet.placement import Capacity, Demand, describe_shortage, load_of, next_move, place

SITES = st.sampled_from([None, "hall", "yard"])
DEMANDS = st.lists(st.tuples(st.floats(0.01, 1), st.sampled_from([0.0, 0.1]), SITES), max_size=40).map(
    lambda rows: [Demand(stream=f"s{n}", cpus=c, gpus=g, near=s) for n, (c, g, s) in enumerate(rows)]
)
NODES = st.lists(
    st.tuples(st.floats(0.5, 4), st.sampled_from([0.0, 1.0]), SITES, st.booleans()), min_size=1, max_size=6
).map(lambda rows: [Capacity(node=f"n{n}", cpus=c, gpus=g, site=s, drained=d) for n, (c, g, s, d) in enumerate(rows)])
POLICY = st.sampled_from(["spread", "pack"])


def demands(number: int, cpus: float = 0.1, near: str | None = None) -> list[Demand]:
    return [Demand(stream=f"cam{n:02d}", cpus=cpus, near=near) for n in range(number)]


def present_of(placed: dict[str, str], wanted: list[Demand], nodes: list[Capacity]) -> dict[str, list[Demand]]:
    present: dict[str, list[Demand]] = {node.node: [] for node in nodes}
    for demand in wanted:
        if demand.stream in placed:
            present[placed[demand.stream]].append(demand)
    return present


@given(DEMANDS, NODES, POLICY)
def test_no_placement_exceeds_a_node_or_leaves_a_site(wanted, nodes, policy):
    placed, unplaced = place(wanted, nodes, {}, policy)
    assert len(placed) + len(unplaced) == len(wanted)
    by_name = {node.node: node for node in nodes}
    for demand in wanted:
        if demand.stream in placed:
            node = by_name[placed[demand.stream]]
            assert demand.near in (None, node.site)
            assert not node.drained
    present = present_of(placed, wanted, nodes)
    for node in nodes:
        assert load_of(node, present[node.node]) <= 1 + 1e-6
        for demand in unplaced:  # what is left over fits on no node
            fits = load_of(node, [*present[node.node], demand]) <= 1 and demand.near in (None, node.site)
            assert node.drained or not fits


@given(DEMANDS, NODES, POLICY)
def test_moves_end_and_each_of_them_fits(wanted, nodes, policy):
    everywhere = [Capacity(node=n.node, cpus=n.cpus, gpus=n.gpus, site=n.site) for n in nodes]
    placed, _ = place(wanted, everywhere, {}, "pack")
    by_name, by_stream = {node.node: node for node in nodes}, {demand.stream: demand for demand in wanted}
    for _ in range(4 * len(wanted) + 1):
        present = present_of(placed, wanted, nodes)
        move = next_move(nodes, present, policy)
        if move is None:
            break
        demand, target = by_stream[move.stream], by_name[move.target]
        assert placed[move.stream] == move.source != move.target
        assert not target.drained
        assert demand.near in (None, target.site)
        assert load_of(target, [*present[move.target], demand]) <= 1 + 1e-6
        placed[move.stream] = move.target
    else:
        pytest.fail("the moves do not end")


def test_spread_shares_equally_and_pack_fills_one_node():
    nodes = [Capacity(node=f"n{n}", cpus=2) for n in range(3)]
    counts = {policy: [*place(demands(12), nodes, {}, policy)[0].values()] for policy in ("spread", "pack")}
    assert [counts["spread"].count(node.node) for node in nodes] == [4, 4, 4]
    assert [counts["pack"].count(node.node) for node in nodes] == [12, 0, 0]


def test_a_new_node_takes_its_share_one_stream_after_the_other():
    nodes = [Capacity(node=f"n{n}", cpus=2) for n in range(3)]
    wanted = demands(12)
    placed, _ = place(wanted, nodes[:2], {}, "spread")
    moves = 0
    while move := next_move(nodes, present_of(placed, wanted, nodes), "spread"):
        placed[move.stream], moves = move.target, moves + 1
    assert moves == 4
    assert [[*placed.values()].count(node.node) for node in nodes] == [4, 4, 4]


def test_a_drained_node_gives_all_its_streams_away():
    nodes = [Capacity(node="n0", cpus=2, drained=True), Capacity(node="n1", cpus=2)]
    wanted = demands(3)
    placed = {demand.stream: "n0" for demand in wanted}
    for _ in range(3):
        move = next_move(nodes, present_of(placed, wanted, nodes), "pack")
        assert move is not None
        placed[move.stream] = move.target
    assert {*placed.values()} == {"n1"}


def test_a_service_has_at_most_400_streams():
    placed, unplaced = place(demands(401, cpus=0.0001), [Capacity(node="n0", cpus=64)], {}, "spread")
    assert (len(placed), len(unplaced)) == (400, 1)


def test_a_shortage_says_how_many_nodes_would_hold_the_rest():
    nodes = [Capacity(node="n0", cpus=1)]
    wanted = demands(24)
    _, unplaced = place(wanted, nodes, {}, "spread")
    text = describe_shortage(unplaced, nodes, len(wanted))
    assert text.startswith("14 of 24 streams do not fit on 1 node(s): cam10, cam11, cam12, cam13, cam14 and 9 more")
    assert "they take 1.40 processors. 2 more node(s) with 1.00 processors for streams would hold them" in text


def test_a_shortage_names_the_site_and_a_stream_that_is_larger_than_a_node():
    nodes = [Capacity(node="n0", cpus=1, site="hall")]
    at_yard = describe_shortage(demands(1, near="yard"), nodes, 1)
    assert at_yard.endswith("1 more node(s) of site yard with 1.00 processors for streams would hold them")
    assert "stream cam00 takes more than a whole node (1.00 processors)" in describe_shortage(demands(1, 2.0), nodes, 1)
