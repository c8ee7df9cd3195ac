"""States, counters and time-outs of a stream, with a clock of the test."""

from __future__ import annotations

from typing import get_args

from streamclf.capture.stream_state import OFFLINE_NS, TRANSITIONS, StreamStateMachine
from streamclf.events.kinds import State
from streamclf.units import NS

MS = 1_000_000


def play(machine: StreamStateMachine, start_ns: int, seconds: float, interval_ns: int = 40 * MS) -> int:
    now_ns = start_ns
    for _ in range(int(seconds * NS / interval_ns)):
        now_ns += interval_ns
        machine.on_frame(now_ns)
        machine.tick(now_ns)
    return now_ns


def test_a_silent_stream_becomes_stalled_then_offline_and_live_with_the_next_frame() -> None:
    machine = StreamStateMachine(0)
    report = machine.start(0)
    assert (report.state, report.reason) == ("connecting", None)
    now_ns = play(machine, 0, 2)
    assert machine.state == "live"
    states = []
    for step in range(1, 50):
        report = machine.tick(now_ns + step * 100 * MS)
        if report is not None:
            states.append((report.state, step))
    assert [state for state, _ in states] == ["stalled", "offline"]
    assert states[0][1] == 11
    assert states[1][1] == OFFLINE_NS // (100 * MS) + 1
    report = machine.on_frame(now_ns + 6 * NS)
    assert report is not None
    assert (report.state, report.reason) == ("live", None)


def test_a_lost_connection_is_reported_at_once_and_offline_keeps_its_reason() -> None:
    machine = StreamStateMachine(0)
    now_ns = play(machine, 0, 1)
    report = machine.on_fault("connection refused", now_ns + 1)
    assert report is not None
    assert (report.state, report.reason) == ("connecting", "connection refused")
    assert machine.on_fault("connection refused", now_ns + 2) is None, "the same reason is reported once"
    report = machine.tick(now_ns + 4 * NS)
    assert report is not None
    assert (report.state, report.reason) == ("offline", "connection refused")
    report = machine.on_fault("not found (404)", now_ns + 5 * NS)
    assert report is not None
    assert (report.state, report.reason) == ("offline", "not found (404)")


def test_a_camera_with_one_frame_every_two_seconds_is_not_stalled() -> None:
    machine = StreamStateMachine(0)
    now_ns = play(machine, 0, 60, interval_ns=2 * NS)
    assert machine.state == "live"
    assert machine.tick(now_ns + 5 * NS - 1) is None or machine.state == "live"


def test_a_file_may_pause_without_a_stall() -> None:
    machine = StreamStateMachine(0)
    now_ns = play(machine, 0, 1)
    machine.tick(now_ns + 60 * NS, silence_is_stall=False)
    assert machine.state == "live"


def test_counters_are_reported_regularly_with_the_measured_rate() -> None:
    machine = StreamStateMachine(0)
    reports = []
    for i in range(1, 301):
        machine.on_frame(i * 40 * MS)
        report = machine.tick(i * 40 * MS)
        if report is not None:
            reports.append(report)
    assert len(reports) == 2  # after the change to live: at 5 s and 10 s
    assert reports[-1].counters["frames"] == 251
    assert abs(reports[-1].counters["fps"] - 25) < 1
    assert reports[-1].body["state"] == "live"


def test_no_report_follows_the_end() -> None:
    machine = StreamStateMachine(0)
    now_ns = play(machine, 0, 1)
    report = machine.on_end("end of the file", now_ns, finished=True)
    assert report is not None
    assert (report.state, report.reason, report.body["finished"]) == ("offline", "end of the file", True)
    assert machine.tick(now_ns + 60 * NS) is None


def test_repeated_frames_are_frozen_until_a_new_one_or_silence() -> None:
    machine = StreamStateMachine(0)
    now_ns = play(machine, 0, 1)
    assert machine.set_frozen(11.0, now_ns) is None
    report = machine.on_frame(now_ns + 40 * MS)
    assert report is not None
    assert (report.state, report.reason) == ("frozen", "no new image for 11 s, though frames arrive")
    now_ns = play(machine, now_ns + 40 * MS, 2)
    assert machine.state == "frozen"
    report = machine.set_frozen(None, now_ns)
    assert report is not None
    assert (report.state, report.reason) == ("live", None)
    machine.set_frozen(12.0, now_ns)
    now_ns = play(machine, now_ns, 1)
    report = machine.tick(now_ns + 1500 * MS)
    assert report is not None
    assert report.state == "stalled"


def test_a_frozen_stream_stays_frozen_after_a_new_connection() -> None:
    machine = StreamStateMachine(0)
    machine.set_frozen(11.0, play(machine, 0, 1))
    now_ns = play(machine, NS, 1)
    machine.on_fault("connection reset", now_ns)
    assert machine.state == "connecting"
    report = machine.on_frame(now_ns + NS)
    assert report is not None
    assert report.state == "frozen"


def test_transitions_cover_exactly_the_five_states() -> None:
    states = set(get_args(State))
    assert {state for pair in TRANSITIONS for state in pair} == states
    assert all(before != after for before, after in TRANSITIONS)


def changes(reports: list[tuple[State, int]]) -> list[tuple[State, int]]:
    return [report for i, report in enumerate(reports) if i == 0 or reports[i - 1][0] != report[0]]


def test_ticks_at_next_tick_ns_miss_no_report() -> None:
    """Ticking only at `next_tick_ns` gives the same reports, and no later, as ticking all the time."""
    for silence_is_stall in (True, False):
        frequent, lazy = StreamStateMachine(0), StreamStateMachine(0)
        reports_of_both: list[list[tuple[State, int]]] = [[], []]
        frame_times = {*range(40 * MS, 3 * NS, 40 * MS), *range(9 * NS, 11 * NS, 200 * MS)}
        due_ns = lazy.next_tick_ns(silence_is_stall=silence_is_stall)
        ticks = 0
        for now_ns in range(0, 20 * NS, 10 * MS):
            for machine, reports in ((frequent, reports_of_both[0]), (lazy, reports_of_both[1])):
                made = [machine.on_frame(now_ns)] if now_ns in frame_times else []
                if now_ns == 12 * NS:
                    made.append(machine.on_fault("gone", now_ns))
                if machine is frequent or now_ns >= due_ns:
                    made.append(machine.tick(now_ns, silence_is_stall=silence_is_stall))
                    if machine is lazy:
                        due_ns = machine.next_tick_ns(silence_is_stall=silence_is_stall)
                        ticks += 1
                reports += [(report.state, now_ns) for report in made if report is not None]
        assert changes(reports_of_both[0]) == changes(reports_of_both[1])
        assert [state for state, _ in changes(reports_of_both[0])][-1] == (
            "offline" if silence_is_stall else "connecting"
        )
        assert ticks < 50, "two per second at most"
        assert all(
            due_ns > now_ns
            for due_ns in (
                frequent.next_tick_ns(silence_is_stall=silence_is_stall),
                lazy.next_tick_ns(silence_is_stall=silence_is_stall),
            )
        )
