"""The supervisor's timers."""

from streamclf.supervisor.timers import Timers


def test_timers_are_due_in_the_order_of_their_times_and_not_before() -> None:
    timers = Timers()
    timers.add(60, "end")
    timers.add(0, "kill", "b", 2)
    timers.add(-1, "start", "a", 1)
    first, second = timers.pop_due(), timers.pop_due()
    assert first is not None
    assert second is not None
    assert (first.kind, first.child, first.run) == ("start", "a", 1)
    assert (second.kind, second.child, second.run) == ("kill", "b", 2)
    assert timers.pop_due() is None
    assert 50 < timers.wait_s() <= 60
