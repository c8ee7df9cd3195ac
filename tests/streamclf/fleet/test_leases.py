"""Leases: a node always stops before the head may give its streams away, however late messages are."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from streamclf.fleet.leases import RATE_MARGIN, LeaseTable

DELAY = st.floats(0, 30)


@given(st.lists(st.tuples(DELAY, DELAY), min_size=1, max_size=8), st.floats(0.96, 1.04), st.floats(3, 60))
def test_a_node_stops_before_its_lease_ends_at_the_head(messages, rate, lease_s):
    """Requests take a while, and the node's clock runs at another rate. Replies may come late, or never."""
    table, true_s = LeaseTable(lease_s=lease_s), 100.0
    for pause_s, delay_s in messages:
        true_s += pause_s
        node_stops_s = true_s + lease_s * (1 - RATE_MARGIN) / rate  # by its own clock, from before it asks
        true_s += delay_s
        table.renew("session", true_s)
        assert table.is_alive("session", max(true_s, node_stops_s))


@given(
    st.lists(st.sampled_from("abcd"), min_size=1, max_size=30), st.lists(st.floats(-1e6, 2e9), min_size=30, max_size=30)
)
def test_tokens_grow_whatever_the_clock_of_the_wall_does(streams, walls):
    table, tokens = LeaseTable(lease_s=6), []
    for number, (stream, wall_s) in enumerate(zip(streams, walls, strict=False)):
        table.end(f"session-{number - 1}")
        tokens.append(table.grant(stream, f"session-{number}", wall_s=wall_s).token)
        table = LeaseTable.restored(6, table.as_dict(), (), 0.0)
    assert tokens == sorted({*tokens})


def test_only_what_a_session_no_longer_holds_is_released():
    table = LeaseTable(lease_s=6)
    for stream in "abc":
        table.grant(stream, "one", wall_s=0)
    assert table.release("one", {"a"}) == {"b", "c"}
    assert [*table.of("one")] == ["a"]
    assert table.release("two", ()) == set()
    assert table.end("one") == {"a"}
    assert not table.leases
