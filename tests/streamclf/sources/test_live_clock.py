"""Arrival takes the place of unsound time stamps; the stamps of sound cameras stay, whatever the network does."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator

import pytest

from streamclf.sources.live_clock import SOUND_NS, LiveClock, StampCheck
from streamclf.units import NS

DISORDER = random.Random(1)


def faults(stamp: Callable[[int], float], *, fps: float = 25, seconds: float = 9) -> list[tuple[float, str]]:
    """Return (seconds, reason) of each frame with a fault; frame n has the stamp `stamp(n)`, in seconds."""
    check = StampCheck()
    found = []
    for i in range(int(seconds * fps)):
        reason = check.push(round(stamp(i) * NS), round(i / fps * NS))
        if reason is not None:
            found.append((i / fps, reason))
    return found


@pytest.mark.parametrize(
    ("stamp", "reason", "within_s"),
    [
        (lambda i: 7.0, "stand still", 0.5),
        (lambda i: min(i, 75) / 25, "stand still", 3.5),
        (lambda i: i // 25, "stand still", 0.5),
        (lambda i: i / 25 / 90, "do not follow real time", 1),
        (lambda i: i / 90_000, "do not follow real time", 1),
        (lambda i: i / 25 * 8 / 90, "do not follow real time", 1),
        (lambda i: i / 25 * 11.1, "do not follow real time", 6.5),
        (lambda i: -i / 25, "out of order", 0.5),
        (lambda i: (0, 2, 3, 1)[i % 4] / 25 + i // 4 * 4 / 25, "out of order", 1),
        (lambda i: DISORDER.uniform(0, 40_000), "out of order", 0.5),
        (lambda i: i / 25 + i // 50 * 3600, "out of order", 8.5),
    ],
    ids=[
        "constant",
        "constant later",
        "whole seconds",
        "milliseconds",
        "frame numbers",
        "8 kHz",
        "microseconds",
        "backwards",
        "sending order",
        "random",
        "jumps",
    ],
)
def test_unsound_stamps_are_detected(stamp: Callable[[int], float], reason: str, within_s: float) -> None:
    first_s, why = faults(stamp)[0]
    assert reason in why
    assert first_s <= within_s


@pytest.mark.parametrize("fps", [0.5, 1.0, 5.0])
@pytest.mark.parametrize("unit", [0.0, 1 / 90, 1 / 3600])
def test_slow_cameras_are_detected_before_their_frames_count_as_late_for_5_s(fps: float, unit: float) -> None:
    assert faults(lambda i: i / fps * unit, fps=fps)[0][0] <= 6.1


def arrivals(network: str, fps: float, seconds: float, seed: int) -> Iterator[tuple[float, float]]:
    """Yield (time stamp, arrival) of a sound camera's frames, in seconds."""
    rng, last, stall_s = random.Random(seed), 0.0, 0.0
    for i in range(int(fps * seconds)):
        sent_s = i / fps
        if network == "jitter":
            arrived_s = sent_s + abs(rng.gauss(0, 0.15))
        elif network == "bursts":
            arrived_s = (sent_s // 2 + 1) * 2.0
        elif network == "stalls":
            if sent_s >= stall_s and rng.random() < 0.02:
                stall_s = sent_s + rng.uniform(0.2, 1.9)
            arrived_s = max(sent_s, stall_s)
        elif network == "buffer first":  # 20 s of video at once, then as it is made
            arrived_s = max(sent_s - 20, 0) + min(sent_s, 20) / 20 * 0.3
        elif network == "half speed":
            arrived_s = sent_s * 2
        else:
            arrived_s = sent_s * 1.001
        if network == "losses" and rng.random() < 0.5:
            continue
        last = max(arrived_s, last + 1e-5)
        yield sent_s, last


@pytest.mark.parametrize("network", ["jitter", "bursts", "stalls", "buffer first", "half speed", "losses", "drift"])
@pytest.mark.parametrize("fps", [0.5, 1, 5, 25, 120])
def test_the_stamps_of_a_sound_camera_stay(network: str, fps: float) -> None:
    for seed in range(3):
        clock = LiveClock()
        for sent_s, arrived_s in arrivals(network, fps, 60, seed):
            media_ns = clock.media_ns(round(sent_s * NS), round(arrived_s * NS))
            assert media_ns == round(sent_s * NS), (clock.note, seed, sent_s)
        assert clock.note is None


def test_a_counter_that_wraps_and_a_clock_that_is_set_once_are_sound() -> None:
    clock = LiveClock()
    period_ns = 2**32 * NS // 90_000
    for i in range(100):
        clock.media_ns((period_ns - 2 * NS + i * NS // 25) % period_ns, i * NS // 25)
    for i in range(100, 200):
        clock.media_ns(i * NS // 25 - 3600 * NS, i * NS // 25)
        assert not clock.is_discontinuous
    assert clock.note is None


def test_arrival_takes_the_place_of_stamps_until_they_are_sound_for_minutes() -> None:
    """One new segment begins with the change to arrival, none with the change back."""
    clock = LiveClock()
    times, notes, breaks = [], [], 0
    for i in range(25 * (SOUND_NS // NS + 30)):
        stands = 100 < i < 200
        times.append(clock.media_ns((100 if stands else i) * NS // 25, i * NS // 25))
        notes.append(clock.note)
        breaks += clock.is_discontinuous
    assert breaks == 1
    assert [note for note, _ in itertools.groupby(notes)] == [
        None,
        "its time stamps stand still: frames get the time at which they arrive",
        None,
    ]
    steps = {after - before for before, after in itertools.pairwise(times[200:])}
    assert steps == {NS // 25}
    assert times == sorted(times)


def test_video_that_does_not_arrive_in_real_time_keeps_its_stamps() -> None:
    clock = LiveClock(check=False)
    assert [clock.media_ns(i, i * NS) for i in range(50)] == list(range(50))
    assert clock.note is None
