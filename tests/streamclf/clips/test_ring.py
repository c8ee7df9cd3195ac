"""Check the ring of packets: its limits, its times, and where a film may begin."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.clips import film

from streamclf.clips.bitstream import (
    START_CODE,
    parameter_sets_of,
    read_extradata,
    split_annex_b,
    split_lengths,
    to_annex_b,
)
from streamclf.clips.ring import ENTRY_BYTES, MAX_UNTIMED, PacketRing
from streamclf.units import NS

STEP_NS = NS // 25
KEY = START_CODE + b"\x65" + bytes([1]) * 95
OTHER = START_CODE + b"\x41" + bytes([1]) * 95


def frame(stamp_ns: int | None, pts_ns: int, *, repeated: bool = False) -> Any:
    return SimpleNamespace(stamp_ns=stamp_ns, pts_ns=pts_ns, repeated=repeated)


def fill(ring: PacketRing, begin: int, end: int, *, gop: int = 10, shift_ns: int = 5 * NS, size: int = 100) -> None:
    """Add packets `begin` to `end`, each with its frame; media time is the stamp plus `shift_ns`."""
    for n in range(begin, end):
        data = (KEY if n % gop == 0 else OTHER) + bytes([1]) * (size - 100)
        ring.push(data, n * STEP_NS, key=n % gop == 0)
        ring.add_frame(frame(n * STEP_NS, n * STEP_NS + shift_ns), 1)


def test_a_ring_keeps_its_time_from_a_key_frame_on() -> None:
    ring = PacketRing(keep_ns=2 * NS, max_bytes=10**6)
    ring.begin("h264", None)
    fill(ring, 0, 200)
    kept = ring.packets_from(0, 1000)
    assert kept[0].key
    # The newest is 199: two seconds before it is 149, and the key frame before that is 140.
    assert [(entry.stamp_ns or 0) // STEP_NS for entry in kept] == list(range(140, 200))
    assert all(entry.at_ns == (entry.stamp_ns or 0) + 5 * NS for entry in kept)
    assert ring.evicted == 0
    first = ring.first_from(150 * STEP_NS + 5 * NS)
    assert first is not None
    assert first.stamp_ns == 150 * STEP_NS
    assert ring.first_from(0) is kept[0], "the earliest, where none is early enough"


@given(st.integers(1000, 20_000), st.integers(1, 60), st.integers(100, 2000), st.booleans())
def test_a_ring_never_takes_more_bytes_than_its_limit(limit: int, gop: int, size: int, held: bool) -> None:
    ring = PacketRing(keep_ns=100 * NS, max_bytes=limit)
    ring.begin("h264", None)
    for n in range(120):
        fill(ring, n, n + 1, gop=gop, size=size)
        if held:
            ring.hold(1)
        assert ring.bytes <= limit
        entries = ring.packets_from(0, 1000)
        assert ring.bytes == sum(len(entry.data) + ENTRY_BYTES for entry in entries)
        assert not entries or entries[0].key
    assert (ring.evicted > 0) == (120 * (size + ENTRY_BYTES) > limit)


@pytest.mark.parametrize(("needed_s", "expected"), [(1, False), (3, True)])
def test_packets_that_leave_late_enough_are_not_counted(needed_s: int, expected: bool) -> None:
    ring = PacketRing(keep_ns=100 * NS, max_bytes=60 * (100 + ENTRY_BYTES), needed_ns=needed_s * NS)
    ring.begin("h264", None)
    fill(ring, 0, 200)
    assert (ring.evicted > 0) == expected


def test_held_packets_stay_beyond_their_time() -> None:
    ring = PacketRing(keep_ns=NS, max_bytes=10**6)
    ring.begin("h264", None)
    fill(ring, 0, 50)
    number = ring.packets_from(0, 1000)[0].number
    ring.hold(number)
    fill(ring, 50, 150)
    assert ring.packets_from(number, 1)[0].number == number
    ring.hold(None)
    fill(ring, 150, 151)
    assert ring.packets_from(number, 1)[0].number > number


def test_packets_wait_for_the_times_of_their_frames_but_not_for_ever() -> None:
    ring = PacketRing(keep_ns=100 * NS, max_bytes=10**6)
    ring.begin("h264", None)
    order = [0, 3, 1, 2, 6, 4, 5]
    for n in order:
        ring.push(KEY if n == 0 else OTHER, n * STEP_NS, key=n == 0)
    ring.add_frame(frame(0, 0), 1)
    ring.add_frame(frame(STEP_NS, STEP_NS), 1)
    assert len(ring.packets_from(0, 100)) == 1, "the frame of the second packet has not come out yet"
    for n in (2, 3):
        ring.add_frame(frame(n * STEP_NS, n * STEP_NS), 1)
    assert len(ring.packets_from(0, 100)) == 4
    for n in range(7, 7 + 2 * MAX_UNTIMED):  # their frames never come: they are damaged
        ring.push(OTHER, n * STEP_NS, key=False)
        ring.add_frame(frame(3 * STEP_NS, 3 * STEP_NS), 1)
    ring.add_frame(frame((6 + 2 * MAX_UNTIMED) * STEP_NS, (6 + 2 * MAX_UNTIMED) * STEP_NS), 1)
    timed = ring.packets_from(0, 1000)
    assert len(timed) >= len(order) + MAX_UNTIMED - 1
    assert all(abs(entry.at_ns - (entry.stamp_ns or 0)) <= 1 for entry in timed)


@pytest.mark.parametrize("jump_ns", [-100 * NS, 100 * NS])
def test_a_jump_in_time_begins_another_format(jump_ns: int) -> None:
    ring = PacketRing(keep_ns=1000 * NS, max_bytes=10**6)
    ring.begin("h264", None)
    fill(ring, 0, 25, shift_ns=200 * NS)
    fill(ring, 25, 50, shift_ns=200 * NS + jump_ns)
    first = ring.first_from(0)
    assert first is not None
    assert first.stamp_ns == 30 * STEP_NS, "the first key frame after the jump"
    assert len({id(entry.format) for entry in ring.packets_from(0, 100)}) == 2


def test_another_connection_begins_another_format_with_a_key_frame() -> None:
    ring = PacketRing(keep_ns=1000 * NS, max_bytes=10**6)
    ring.begin("h264", None)
    fill(ring, 0, 25)
    ring.end()
    assert not ring.has_packets
    ring.begin("h264", None)
    fill(ring, 5, 25)
    entries = ring.packets_from(0, 100)
    assert entries[-1].format is not entries[0].format or entries[0].stamp_ns == 10 * STEP_NS
    assert entries[-15].key


@pytest.mark.parametrize("codec", ["libx264", "libx265"])
def test_changed_sequence_parameters_begin_another_format(codec: str) -> None:
    name = {"libx264": "h264", "libx265": "hevc"}[codec]
    small, large = film(frames=3, gop=1, codec=codec), film(frames=3, gop=1, codec=codec, width=480, height=272)
    ring = PacketRing(keep_ns=1000 * NS, max_bytes=10**7)
    ring.begin(name, b"".join(START_CODE + nal for nal in small.units[0] if small.kind(nal) in (7, 8, 32, 33, 34)))
    formats = []
    for n, unit in enumerate([*small.units, *large.units]):
        ring.push(b"".join(START_CODE + nal for nal in unit), n * STEP_NS, key=True)
        ring.add_frame(frame(n * STEP_NS, n * STEP_NS), 1)
        formats.append(ring.packets_from(0, 100)[-1].format)
    assert formats[0] is formats[1] is formats[2]
    assert formats[2] is not formats[3]
    assert formats[3] is formats[4] is formats[5]


@pytest.mark.parametrize(("codec", "name"), [("libx264", "h264"), ("libx265", "hevc")])
def test_packets_with_lengths_become_annex_b(codec: str, name: str) -> None:
    units = film(frames=2, codec=codec).units[0]
    annex_b = b"".join(START_CODE + unit for unit in units)
    packed = b"".join(len(unit).to_bytes(4, "big") + unit for unit in units)
    assert to_annex_b(packed, 4) == annex_b
    assert tuple(split_annex_b(annex_b)) == tuple(split_lengths(packed, 4)) == units
    assert parameter_sets_of(name, annex_b, 0) == parameter_sets_of(name, packed, 4) == units[: 2 + (name == "hevc")]


@given(st.binary(max_size=200), st.sampled_from(["h264", "hevc"]), st.integers(0, 4))
def test_any_bytes_are_read_without_a_fault(data: bytes, codec: str, length_bytes: int) -> None:
    for record in (data, b"\x01" + data):
        read_extradata(codec, record)
    parameter_sets_of(codec, data, length_bytes)
    to_annex_b(data, length_bytes)
    rng = random.Random(data)
    cut = rng.randrange(len(data) + 1)
    assert len(to_annex_b(data[:cut], length_bytes)) <= 4 * len(data) + 8
