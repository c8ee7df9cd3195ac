"""States, counters and time-outs of a stream, with a clock of the test."""

from __future__ import annotations

from typing import get_args

from streamclf.capture.stream_state import OFFLINE_NS, TRANSITIONS, StreamStateMachine
from streamclf.events.types import State
from streamclf.windows.sampling import NS

MS = 1_000_000


def playing(health: StreamStateMachine, start_ns: int, seconds: float, interval_ns: int = 40 * MS) -> int:
    now_ns = start_ns
    for _ in range(int(seconds * NS / interval_ns)):
        now_ns += interval_ns
        health.on_frame(now_ns)
        health.tick(now_ns)
    return now_ns


def test_a_silent_stream_becomes_stalled_then_offline_and_live_with_the_next_frame() -> None:
    health = StreamStateMachine(0)
    report = health.start(0)
    assert (report.state, report.reason) == ("connecting", None)
    now_ns = playing(health, 0, 2)
    assert health.state == "live"
    states = []
    for step in range(1, 50):
        report = health.tick(now_ns + step * 100 * MS)
        if report is not None:
            states.append((report.state, step))
    assert [state for state, _ in states] == ["stalled", "offline"]
    assert states[0][1] == 11
    assert states[1][1] == OFFLINE_NS // (100 * MS) + 1
    report = health.on_frame(now_ns + 6 * NS)
    assert report is not None
    assert (report.state, report.reason) == ("live", None)


def test_a_lost_connection_is_reported_at_once_and_offline_keeps_its_reason() -> None:
    health = StreamStateMachine(0)
    now_ns = playing(health, 0, 1)
    report = health.on_fault("connection refused", now_ns + 1)
    assert report is not None
    assert (report.state, report.reason) == ("connecting", "connection refused")
    assert health.on_fault("connection refused", now_ns + 2) is None, "the same reason is said once"
    report = health.tick(now_ns + 4 * NS)
    assert report is not None
    assert (report.state, report.reason) == ("offline", "connection refused")
    report = health.on_fault("not found (404)", now_ns + 5 * NS)
    assert report is not None
    assert (report.state, report.reason) == ("offline", "not found (404)")


def test_a_camera_with_one_frame_every_two_seconds_is_not_stalled() -> None:
    health = StreamStateMachine(0)
    now_ns = playing(health, 0, 60, interval_ns=2 * NS)
    assert health.state == "live"
    assert health.tick(now_ns + 5 * NS - 1) is None or health.state == "live"


def test_a_file_may_pause_without_a_stall() -> None:
    health = StreamStateMachine(0)
    now_ns = playing(health, 0, 1)
    health.tick(now_ns + 60 * NS, silence_is_stall=False)
    assert health.state == "live"


def test_counters_are_reported_regularly_with_the_measured_rate() -> None:
    health = StreamStateMachine(0)
    reports = []
    for i in range(1, 301):
        health.on_frame(i * 40 * MS)
        report = health.tick(i * 40 * MS)
        if report is not None:
            reports.append(report)
    assert len(reports) == 2  # after the change to live: at 5 s and 10 s
    assert reports[-1].counters["frames"] == 251
    assert abs(reports[-1].counters["fps"] - 25) < 1
    assert reports[-1].body["state"] == "live"


def test_no_report_follows_the_end() -> None:
    health = StreamStateMachine(0)
    now_ns = playing(health, 0, 1)
    report = health.on_end("end of the file", now_ns, finished=True)
    assert report is not None
    assert (report.state, report.reason, report.body["finished"]) == ("offline", "end of the file", True)
    assert health.tick(now_ns + 60 * NS) is None


def test_repeated_frames_are_frozen_until_a_new_one_or_silence() -> None:
    health = StreamStateMachine(0)
    now_ns = playing(health, 0, 1)
    assert health.set_frozen(11.0, now_ns) is None
    report = health.on_frame(now_ns + 40 * MS)
    assert report is not None
    assert (report.state, report.reason) == ("frozen", "no new image for 11 s, though frames arrive")
    now_ns = playing(health, now_ns + 40 * MS, 2)
    assert health.state == "frozen"
    report = health.set_frozen(None, now_ns)
    assert report is not None
    assert (report.state, report.reason) == ("live", None)
    health.set_frozen(12.0, now_ns)
    now_ns = playing(health, now_ns, 1)
    report = health.tick(now_ns + 1500 * MS)
    assert report is not None
    assert report.state == "stalled"


def test_a_frozen_stream_stays_frozen_after_a_new_connection() -> None:
    health = StreamStateMachine(0)
    health.set_frozen(11.0, playing(health, 0, 1))
    now_ns = playing(health, NS, 1)
    health.on_fault("connection reset", now_ns)
    assert health.state == "connecting"
    report = health.on_frame(now_ns + NS)
    assert report is not None
    assert report.state == "frozen"


def test_transitions_cover_exactly_the_five_states() -> None:
    states = set(get_args(State))
    assert {state for pair in TRANSITIONS for state in pair} == states
    assert all(before != after for before, after in TRANSITIONS)


def changes(reports: list[tuple[State, int]]) -> list[tuple[State, int]]:
    return [report for i, report in enumerate(reports) if i == 0 or reports[i - 1][0] != report[0]]


def test_ticks_at_next_tick_ns_miss_no_report() -> None:
    """Ticks at `due_ns` alone tell the same, and no later, as ticks without end."""
    for watched in (True, False):
        often, seldom = StreamStateMachine(0), StreamStateMachine(0)
        told: list[list[tuple[State, int]]] = [[], []]
        pictures = {*range(40 * MS, 3 * NS, 40 * MS), *range(9 * NS, 11 * NS, 200 * MS)}
        due_ns = seldom.next_tick_ns(silence_is_stall=watched)
        ticks = 0
        for now_ns in range(0, 20 * NS, 10 * MS):
            for health, reports in ((often, told[0]), (seldom, told[1])):
                made = [health.on_frame(now_ns)] if now_ns in pictures else []
                if now_ns == 12 * NS:
                    made.append(health.on_fault("gone", now_ns))
                if health is often or now_ns >= due_ns:
                    made.append(health.tick(now_ns, silence_is_stall=watched))
                    if health is seldom:
                        due_ns = health.next_tick_ns(silence_is_stall=watched)
                        ticks += 1
                reports += [(report.state, now_ns) for report in made if report is not None]
        assert changes(told[0]) == changes(told[1])
        assert [state for state, _ in changes(told[0])][-1] == ("offline" if watched else "connecting")
        assert ticks < 50, "twice a second, at most"
        assert all(
            due_ns > now_ns
            for due_ns in (often.next_tick_ns(silence_is_stall=watched), seldom.next_tick_ns(silence_is_stall=watched))
        )
