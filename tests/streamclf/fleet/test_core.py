"""The controller: no stream is published twice, whatever nodes and controller do, and streams find another node."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.fleet_simulation import SimulatedFleet, SimulatedNode, make_setup

from streamclf.errors import UsageError
from streamclf.fleet.core import FleetCore
from streamclf.fleet.store import Store


def make_nodes(number: int, **values) -> list[SimulatedNode]:
    return [SimulatedNode(f"n{n}", f"session-{n}", **values) for n in range(number)]


@pytest.fixture
def fleet(tmp_path):
    running = SimulatedFleet(tmp_path, make_setup(6), make_nodes(3))
    running.run(3)
    return running


def test_streams_are_spread_over_all_nodes_that_the_cluster_has(fleet):
    assert [len(streams) for streams in fleet.owners().values()] == [2, 2, 2]


def test_a_lost_nodes_streams_are_live_elsewhere_soon_after_its_lease(fleet):
    fleet.nodes[1].is_cut_off = True
    fleet.run(5.5)
    assert fleet.published() == 6  # its lease goes on: it may be alive
    fleet.run(1.5)
    assert [len(streams) for streams in fleet.owners().values()] == [3, 0, 3]
    entry = next(node for node in fleet.core.directory().nodes if node.name == "n1")
    assert (entry.state, entry.reason) == ("lost", "no report for 6.5 s")


def test_a_node_that_returns_late_has_lost_its_leases_and_gets_new_ones(fleet):
    late = fleet.nodes[1]
    before = dict(late.tokens)
    late.is_cut_off = True
    fleet.run(8)
    late.is_cut_off = False
    fleet.step()
    assert not late.tokens.items() & before.items()
    fleet.run(30)
    assert [len(streams) for streams in fleet.owners().values()] == [2, 2, 2]
    assert min(late.tokens.values()) > max(before.values())


def test_a_restarted_controller_waits_for_the_leases_of_nodes_that_it_cannot_see(fleet):
    fleet.nodes[1].is_cut_off = True
    fleet.run(3)
    fleet.restart_controller()
    fleet.run(5.5)
    assert len(fleet.core.directory().streams) == 6
    assert fleet.owners()["n0"] == ["cam00", "cam03"]
    fleet.run(2)
    assert fleet.published() == 6
    assert [len(streams) for streams in fleet.owners().values()] == [3, 0, 3]


def test_a_controller_without_its_state_gives_larger_tokens_than_before(fleet, tmp_path):
    before = max(token for node in fleet.nodes for token in node.tokens.values())
    (tmp_path / "state.json").write_bytes(b"\x00 damaged")
    fleet.restart_controller()
    fleet.nodes.clear()
    fleet.nodes.extend(make_nodes(1))
    fleet.run(3)
    assert min(fleet.nodes[0].tokens.values()) > before - 6  # tokens follow the clock of the wall
    assert (tmp_path / "state.json.damaged").exists()


def test_a_node_that_joins_takes_streams_one_at_a_time(fleet):
    fleet.nodes.append(SimulatedNode("n3", "session-3"))
    seen = set()
    for _ in range(60):
        fleet.step()
        seen.add(len(fleet.core.status(now_s=fleet.now_s)["moving"]))
    assert seen == {0, 1}
    assert sorted(len(streams) for streams in fleet.owners().values()) == [1, 1, 2, 2]


def test_a_granted_move_keeps_its_token(fleet):
    """The target has not reported the stream yet: that is no release."""
    fleet.nodes.append(SimulatedNode("n3", "session-3"))
    tokens = set()
    for _ in range(60):
        fleet.step()
        tokens |= {entry.lease for entry in fleet.core.directory().streams.values() if entry.node == "n3"}
    assert len(tokens) == len(fleet.nodes[3].tokens)


def test_a_removed_stream_ends_and_an_added_one_starts(fleet):
    changed = make_setup(7)
    del changed.streams["cam02"], changed.demands["cam02"]
    text = fleet.core.configure(changed, now_s=fleet.now_s)
    assert text == "1 stream(s) added; 1 stream(s) removed"
    fleet.run(5)
    assert sorted(stream for owned in fleet.owners().values() for stream in owned) == [
        "cam00",
        "cam01",
        "cam03",
        "cam04",
        "cam05",
        "cam06",
    ]


def test_the_same_configuration_again_changes_nothing(fleet):
    text = fleet.core.configure(make_setup(6), now_s=fleet.now_s)
    assert text == "nothing has changed: the fleet is up with this configuration already"


def test_streams_without_room_wait_and_the_status_says_so(tmp_path):
    fleet = SimulatedFleet(tmp_path, make_setup(6), make_nodes(1, cpus=0.4))
    fleet.run(3)
    status = fleet.core.status(now_s=fleet.now_s)
    assert len(status["unplaced"]) == 2
    assert status["shortage"].endswith("1 more node(s) with 0.40 processors for streams would hold them")
    assert fleet.core.directory().streams["cam05"].reason == "no node has room for it"


def test_a_restarted_agent_of_the_same_machine_gets_its_streams_at_once(fleet):
    """It has the lock of the folder, so the service of the run before has ended."""
    old = fleet.nodes[0]
    fleet.nodes[0] = SimulatedNode("n0", "session-new")
    old.tokens = {}
    fleet.run(2)
    assert fleet.published() == 6


def test_another_machine_with_the_same_name_is_refused_until_the_first_is_lost(fleet):
    fleet.nodes.append(SimulatedNode("n0", "session-other", boot="another"))
    fleet.run(2)
    assert "another machine has the name n0" in fleet.nodes[3].last_error
    fleet.nodes[0].is_cut_off = True
    fleet.run(30)
    assert fleet.nodes[3].last_error is None
    assert fleet.published() == 6


def test_a_node_with_other_messages_gets_no_streams(fleet):
    report = fleet.nodes[0].report()
    object.__setattr__(report, "protocol", 2)
    orders = fleet.core.report(report, fleet.nodes[0].seq, now_s=fleet.now_s)
    assert "install the same streamclf on both" in orders.error
    assert not orders.tokens


def test_a_report_that_was_overtaken_changes_nothing(fleet):
    node = fleet.nodes[0]
    late, late_seq = node.report(), node.seq
    fleet.step()
    orders = fleet.core.report(late, late_seq, now_s=fleet.now_s)
    assert not orders.tokens


def test_a_broken_node_gives_its_streams_away_at_once(fleet):
    node = fleet.nodes[0]
    node.tokens = {}
    report = node.report()
    object.__setattr__(report, "broken", True)
    fleet.core.report(report, node.seq, now_s=fleet.now_s)
    owners = {stream.node for stream in fleet.core.directory().streams.values()}
    assert owners == {"n1", "n2"}


def test_down_ends_all_nodes_and_forgets_the_fleet(fleet, tmp_path):
    assert fleet.core.stop() == 3
    fleet.run(1.5)
    assert fleet.core.stop() == 0
    assert fleet.published() == 0
    assert FleetCore(Store(tmp_path), now_s=0).status(now_s=0) == {"up": False}


def test_an_update_goes_from_node_to_node(fleet):
    target = make_setup(6, common={"model": "gestures"})
    fleet.core.configure(target, now_s=fleet.now_s)
    most = 0
    for _ in range(60):
        fleet.step()
        models = [node.spec.common["model"] for node in fleet.nodes]
        most = max(most, len({*models}))
        if fleet.core.status(now_s=fleet.now_s)["rollout"] is None:
            break
    assert models == ["gestures"] * 3
    assert most == 2
    assert [*fleet.core.state.setup.commons] == [target.target]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda node: node.latency_ms.update(gestures=200), "n0: its latency (95 %) is 200 ms, 20 ms before"),
        (lambda node: setattr(node, "error", "no such label"), "n0: no such label"),
    ],
)
def test_an_update_that_is_worse_halts_and_its_node_goes_back(fleet, change, reason):
    for node in fleet.nodes:
        change(node)
    fleet.core.configure(make_setup(6, common={"model": "gestures"}), now_s=fleet.now_s)
    fleet.run(20)
    assert fleet.core.status(now_s=fleet.now_s)["rollout"]["halted"] == reason
    assert [node.spec.common["model"] for node in fleet.nodes] == ["camera-events"] * 3
    assert fleet.published() == 6
    fleet.restart_controller()
    fleet.run(10)
    assert [node.spec.common["model"] for node in fleet.nodes] == ["camera-events"] * 3


def test_a_second_change_during_an_update_reaches_all_nodes(fleet):
    """Three versions are in use for a while: nodes that have changed, nodes that have not, and the newest one."""
    for model in ("gestures", "everyday"):
        fleet.core.configure(make_setup(6, common={"model": model}), now_s=fleet.now_s)
        fleet.run(7)
    assert len({node.spec.common["model"] for node in fleet.nodes}) > 1
    fleet.run(40)
    assert [node.spec.common["model"] for node in fleet.nodes] == ["everyday"] * 3
    assert fleet.published() == 6


def test_a_shorter_lease_holds_from_the_next_renewal(tmp_path):
    """A node that is cut off before it knows of the change publishes until its long lease ends."""
    fleet = SimulatedFleet(tmp_path, make_setup(6, lease_s=20), make_nodes(3))
    fleet.run(3)
    fleet.nodes[1].is_cut_off = True
    fleet.core.configure(make_setup(6, lease_s=3), now_s=fleet.now_s)
    fleet.run(10)
    fleet.restart_controller()
    fleet.run(30)
    assert [len(streams) for streams in fleet.owners().values()] == [3, 0, 3]


def test_a_full_disk_grants_nothing_that_a_restart_would_forget(fleet, monkeypatch):
    save = Store.save

    def full(store, name, value):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Store, "save", full)
    fleet.nodes[1].is_cut_off = True
    fleet.run(10)
    assert [len(streams) for streams in fleet.owners().values()] == [2, 0, 2]
    monkeypatch.setattr(Store, "save", save)
    fleet.run(2)
    assert fleet.published() == 6


def test_the_next_fleet_has_larger_tokens(tmp_path):
    """Many grants in a second bring the tokens ahead of the clock, which alone would repeat them."""
    fleet = SimulatedFleet(tmp_path, make_setup(50, cpus=0.01), make_nodes(2))
    fleet.run(3)
    before = max(token for node in fleet.nodes for token in node.tokens.values())
    fleet.core.stop()
    fleet.run(1.5)
    assert fleet.core.stop() == 0
    again = SimulatedFleet(tmp_path, make_setup(50, cpus=0.01), [SimulatedNode("n0", "again")])
    again.run(3)
    assert min(again.nodes[0].tokens.values()) > before


def test_a_node_that_is_lost_during_its_update_halts_it(fleet):
    fleet.core.configure(make_setup(6, common={"model": "gestures"}), now_s=fleet.now_s)
    fleet.run(1)
    fleet.nodes[0].is_cut_off = True
    fleet.run(12)
    assert fleet.core.status(now_s=fleet.now_s)["rollout"]["halted"] == "n0: it was lost during its update"


EVENT = st.one_of(
    st.tuples(st.just("run"), st.floats(0.1, 9)),
    st.tuples(st.sampled_from(["cut", "heal", "kill"]), st.integers(0, 3)),
    st.tuples(st.just("restart"), st.none()),
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(EVENT, max_size=25), st.lists(st.floats(0.97, 1.03), min_size=4, max_size=4), st.floats(-600, 600))
def test_no_stream_is_ever_published_twice(tmp_path_factory, events, rates, offset_s):
    """Nodes are cut off, healed and killed, and the controller restarts, with clocks that differ by minutes and 3 %."""
    nodes = [SimulatedNode(f"n{n}", f"session-{n}", rate=rate, offset_s=offset_s * n) for n, rate in enumerate(rates)]
    fleet = SimulatedFleet(tmp_path_factory.mktemp("fleet"), make_setup(6), nodes)
    for kind, value in events:
        match kind:
            case "run":
                for _ in range(int(value / 0.5) + 1):
                    fleet.step(0.5)
            case "cut":
                nodes[value].is_cut_off = True
            case "heal":
                nodes[value].is_cut_off = False
            case "kill":  # the machine starts again, with another run and another clock
                nodes[value].tokens, nodes[value].boot = {}, f"boot-{fleet.now_s}"
                nodes[value].session, nodes[value].seq = f"session-{fleet.now_s}-{value}", 0
            case _:
                fleet.restart_controller()
    for node in nodes:
        node.is_cut_off = False
    fleet.run(80)
    assert fleet.published() == 6


def test_a_configuration_that_cannot_be_stored_changes_nothing(fleet, monkeypatch):
    def full(store, name, value):
        raise OSError(28, "No space left on device")

    before = fleet.core.state.setup
    monkeypatch.setattr(Store, "save", full)
    with pytest.raises(UsageError, match="cannot be stored: No space left on device; nothing has changed"):
        fleet.core.configure(make_setup(9), now_s=fleet.now_s)
    assert fleet.core.state.setup is before
