"""A classifier that cannot keep up: real rings and feeds, and an engine that takes time by the test's clock."""

from __future__ import annotations

import re
from collections import Counter
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.slow_engine import Rig, SlowCamera, answer

from engines.serving import ServingChange, ServingGroup
from streamclf.classifier.feed import MAX_BURST, MAX_HOP_WINDOWS
from streamclf.classifier.overload import LoadShedder
from streamclf.config.classify import HeadSettings
from streamclf.windows.assembler import WindowAssembler
from streamclf.windows.sampling import ChunkMeta

CHUNKS_PER_S = 5.0
ENCODE_BOUND = {"streams": 8, "chunks": 16, "encode_s": 0.05, "head_s": 0.001}
"""Twice the load that the engine can serve."""
HEAD_BOUND = {"streams": 8, "chunks": 20, "encode_s": 0.002, "head_s": 0.05}
Events = list[tuple[float, str, dict[str, Any]]]


def adaptive(_: int) -> dict[str, Any]:
    return {"adaptive": True}


def expected(camera: SlowCamera, body: dict[str, Any], chunks: int) -> float:
    """Return the probability computed from the chunks of the window that `body` names."""
    first = round(body["window"]["start_s"] * CHUNKS_PER_S)
    segment = body["window"]["segment"]
    numbers = {(written[0], written[1]): written[2] for written in camera.written}
    return answer([numbers[segment, first + i] for i in range(chunks)])


def check_probabilities(rig: Rig, events: Events) -> None:
    cameras = {camera.name: camera for camera in rig.cameras}
    assert events
    for _, stream, body in events:
        want = expected(cameras[stream], body, rig.engine.spec.chunks)
        assert dict(body["top"])["a"] == pytest.approx(want, abs=1e-5)


def check_counters(rig: Rig, events: Events) -> None:
    """Check that every chunk was read, was dropped or waits, and every window was predicted or counted as dropped.

    Only windows of the configured hop count, and those that lack a dropped chunk may be missing.
    """
    predicted = Counter(stream for _, stream, _ in events)
    chunks = rig.engine.spec.chunks
    for camera in rig.cameras:
        feed, drops = camera.feed, camera.feed.drops
        waiting = feed.unread
        lost = drops["overload"] + drops["overrun"]
        assert len(camera.written) == feed.chunks_read + lost + waiting
        complete = [
            i
            for i in range(chunks - 1, len(camera.written) - waiting)
            if camera.written[i][0] == camera.written[i - chunks + 1][0]
        ]
        due = sum((camera.written[i][1] - chunks + 1) % feed.settings.hop == 0 for i in complete)
        missing = due - (predicted[camera.name] + drops["window"] + drops["outdated"] + drops["hop"])
        assert 0 <= missing <= lost * chunks
        if not lost:
            assert missing == 0


def ages(events: Events) -> list[float]:
    return sorted(body["age_s"] for _, _, body in events)


def per_stream(rig: Rig, events: Events) -> list[int]:
    found = Counter(stream for _, stream, _ in events)
    return [found[camera.name] for camera in rig.cameras]


def test_below_full_load_nothing_is_given_up() -> None:
    with Rig(streams=8, chunks=16, encode_s=0.01, head_s=0.005, settings=adaptive) as rig:
        events = rig.run(30)
        check_probabilities(rig, events)
        check_counters(rig, events)
        assert not any(+camera.feed.drops for camera in rig.cameras)
        assert min(per_stream(rig, events)) >= 30 * CHUNKS_PER_S - 16
        assert {body["hop"] for _, _, body in events} == {1}


def test_with_too_many_encodes_some_streams_are_served_well_and_all_of_them_in_turn() -> None:
    """A regression test: with all streams served too slowly, no window was ever complete in time."""
    with Rig(**ENCODE_BOUND) as rig:
        events = rig.run(10)
        later = rig.run(120)
        check_probabilities(rig, events + later)
        check_counters(rig, events + later)
        assert len(later) > 120 * CHUNKS_PER_S * 2  # the engine can serve four streams at best
        assert min(per_stream(rig, later)) > 0.5 * max(per_stream(rig, later))
        assert ages(later)[-1] < 0.5


def test_with_too_many_windows_all_adaptive_streams_get_longer_hops() -> None:
    with Rig(**HEAD_BOUND, settings=adaptive) as rig:
        first = rig.run(10)
        later = rig.run(60)
        check_probabilities(rig, first + later)
        check_counters(rig, first + later)
        assert not sum(camera.feed.drops["overload"] for camera in rig.cameras)
        assert {body["hop"] for _, _, body in later} == {4}
        assert set(per_stream(rig, later)) == {int(60 * CHUNKS_PER_S / 4)}
        assert ages(later)[-1] < 0.2
        starts = [round(body["window"]["start_s"] * CHUNKS_PER_S) for _, s, body in later if s == "cam3"]
        assert {other - one for one, other in pairwise(starts)} == {4}


def test_chunks_between_two_windows_are_not_encoded() -> None:
    with Rig(**ENCODE_BOUND, settings=adaptive) as rig:
        rig.run(30)
        before = rig.engine.encoded
        events = rig.run(60)
        check_probabilities(rig, events)
        assert {body["hop"] for _, _, body in events} <= {MAX_HOP_WINDOWS * 16, MAX_HOP_WINDOWS * 8}
        assert rig.engine.encoded - before < 0.6 * 60 * 8 * CHUNKS_PER_S
        assert min(per_stream(rig, events)) >= 4
        assert ages(events)[-1] < 0.5


@pytest.mark.parametrize("load", [ENCODE_BOUND, HEAD_BOUND])
@pytest.mark.parametrize("change", [{}, {"adaptive": True}, {"max_staleness_ms": 250}])
def test_when_the_load_falls_everything_is_restored_within_a_second(
    load: dict[str, Any], change: dict[str, Any]
) -> None:
    with Rig(**load, settings=lambda _: change) as rig:
        rig.run(40)
        lost = sum(sum(camera.feed.drops.values()) for camera in rig.cameras)
        assert lost > 0
        rig.engine.encode_s = rig.engine.head_s = 0.001
        rig.run(1)
        before = [+camera.feed.drops for camera in rig.cameras]
        events = rig.run(2)
        assert len(
            {(stream, body["window"]["end_s"], body["window"]["segment"]) for _, stream, body in rig.events}
        ) == len(rig.events)
        assert per_stream(rig, events) == [2 * CHUNKS_PER_S] * 8
        assert [+camera.feed.drops for camera in rig.cameras] == before
        assert ages(events)[-1] < 0.05
        check_probabilities(rig, events)
        assert all(body.get("hop", 1) == 1 for _, _, body in events)


def test_a_window_older_than_the_staleness_limit_is_not_classified() -> None:
    with Rig(streams=8, chunks=8, encode_s=0.027, head_s=0.002, settings=lambda _: {"max_staleness_ms": 150}) as rig:
        events = rig.run(60)
        check_probabilities(rig, events)
        check_counters(rig, events)
        stale = sum(camera.feed.drops["outdated"] for camera in rig.cameras)
        assert stale > 0
        head_s = rig.engine.max_batch * rig.engine.head_s
        assert ages(events)[-1] <= 0.15 + head_s + 1e-6
        assert min(per_stream(rig, events)) > 0
        last = {stream: body for _, stream, body in events}
        assert any(body.get("dropped", {}).get("outdated") for body in last.values())


def test_without_a_staleness_limit_old_windows_are_classified() -> None:
    with Rig(streams=1, chunks=4, encode_s=0.15, head_s=2.0) as rig:
        events = rig.run(30)
        assert ages(events)[-1] > 1
        assert rig.cameras[0].feed.drops["outdated"] == 0


def test_only_the_adaptive_stream_gets_a_longer_hop() -> None:
    with Rig(
        streams=2, chunks=8, encode_s=0.001, head_s=0.2, settings=lambda i: {"adaptive": i == 0, "hop": 1 + i}
    ) as rig:
        rig.run(10)
        events = rig.run(30)
        check_probabilities(rig, events)
        hops = {(stream, body.get("hop")) for _, stream, body in events}
        assert hops == {("cam0", 4), ("cam1", None)}
        assert per_stream(rig, events) in ([37, 75], [38, 75])


def test_silent_streams_leave_their_time_to_the_others() -> None:
    with Rig(**HEAD_BOUND, settings=adaptive) as rig:
        rig.run(20)
        assert rig.cameras[0].feed.hop == 4
        due, rig._due = rig._due, rig._due[:3]
        rig.run(4)
        assert {camera.feed.hop for camera in rig.cameras[:3]} == {1}
        rig._due = [(rig.now_s + at_s % 0.2, i) for at_s, i in due]
        rig.run(5)
        assert {camera.feed.hop for camera in rig.cameras} == {4}


def test_chunks_that_are_read_twice_are_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The feed catches up, and at that moment falls behind so far that it has to give chunks up, too."""
    with Rig(streams=1, chunks=8, encode_s=0.001, head_s=0.001, settings=adaptive) as rig:
        (camera,) = rig.cameras
        monkeypatch.setattr(LoadShedder, "update", lambda *_: None)
        camera.feed.set_level(camera.feed.max_level)
        events = rig.run(4)
        assert camera.feed.waiting == camera.feed.unread == 0  # between two windows
        camera.feed.catch_up()
        assert camera.feed.waiting > camera.feed.unread == 0
        for _ in range(9):
            camera.chunk(5, rig.now_s)
        events += rig.run(4)
        assert camera.feed.drops["overload"] == 8  # all but the newest
        check_counters(rig, events)


def test_a_late_stream_catches_up_with_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """If it were served like the others, a late stream would stay late and lose all its windows for ever."""
    with Rig(streams=3, chunks=4, encode_s=0.005, head_s=0.005, max_batch=3) as rig:
        monkeypatch.setattr(LoadShedder, "update", lambda *_: None)
        rig.run(2)
        for camera in rig.cameras:
            for _ in range(8 if camera is rig.cameras[0] else 4):
                camera.chunk(1, rig.now_s)
        for _ in range(2):
            rig.classifier.step()
        waiting = [camera.feed.waiting for camera in rig.cameras]
        assert waiting[0] - max(waiting[1:]) < 4


def test_a_stream_that_is_removed_while_paused_is_counted_to_its_end() -> None:
    with Rig(**ENCODE_BOUND) as rig:
        rig.run(20)
        paused = next(camera for camera in rig.cameras if camera.feed.paused)
        feed = rig.classifier.remove_feed(paused.name)
        assert (
            len(paused.written)
            == feed.chunks_read + feed.drops["overload"] + feed.drops["overrun"] + feed.drops["left"]
        )


@settings(max_examples=40, deadline=None)
@example(streams=1, chunks=2, encode_s=0.125, head_s=0.125, batch=1, change={"adaptive": True}, hop=1)
@given(
    streams=st.integers(1, 6),
    chunks=st.integers(1, 12),
    encode_s=st.floats(0.0005, 0.2),
    head_s=st.floats(0.0005, 0.2),
    batch=st.integers(1, 20),
    change=st.sampled_from(
        [{}, {"adaptive": True}, {"max_staleness_ms": 200}, {"adaptive": True, "max_staleness_ms": 300}]
    ),
    hop=st.integers(1, 30),
)
def test_any_load_keeps_counters_and_probabilities_right(
    streams: int, chunks: int, encode_s: float, head_s: float, batch: int, change: dict[str, Any], hop: int
) -> None:
    with Rig(
        streams=streams, chunks=chunks, encode_s=encode_s, head_s=head_s, max_batch=batch,
        settings=lambda i: change | {"hop": hop},
    ) as rig:  # fmt: skip
        events: Events = []
        for _ in range(3):
            events += rig.run(6)
            for camera in rig.cameras[::2]:
                camera.segment, camera.index = camera.segment + 1, 0
        rig.engine.encode_s = rig.engine.head_s = 1e-4
        events += rig.run(5)
        if events:
            check_probabilities(rig, events)
        check_counters(rig, events)


# The motion gate


@settings(max_examples=200, deadline=None)
@given(
    st.integers(1, 9),
    st.lists(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=MAX_BURST)),
    st.data(),
)
def test_a_slot_holds_its_feature_for_as_long_as_a_window_refers_to_it(
    chunks: int, batches: list[list[tuple[bool, bool]]], data: st.DataObject
) -> None:
    """Place a burst of chunks, encode the new ones, then read the windows, in the classifier's order."""
    slots, first = chunks + MAX_BURST - 1, data.draw(st.integers(0, 50))
    assembler = WindowAssembler(chunks=chunks, hop=data.draw(st.integers(1, 3)), slots=slots, first_slot=first)
    bank: dict[int, int] = {}
    segment, index, newest, features = 1, 0, -1, []
    for batch in batches:
        due, written = [], {}
        for number, (reuse, gap) in enumerate(batch):
            if gap:
                segment, index = segment + 1, 0
            reuse = reuse and newest >= 0
            newest = newest if reuse else len(features)
            features.append(newest)
            meta = ChunkMeta(
                segment=segment, index=index, start_pts_ns=0, end_pts_ns=0, captured_ns=number, frames=1,
                duplicates=0, corrupt=0,
            )  # fmt: skip
            index += 1
            slot, window = assembler.place(meta, reused=reuse)
            assert first <= slot < first + slots
            if not reuse:
                assert slot not in written  # an encode writes each slot once
                written[slot] = newest
            if window:
                due.append((window, features[-chunks:]))
        bank |= written
        for window, want in due:
            assert [bank[slot] for slot in window.slots.tolist()] == want


def gated(_: int) -> dict[str, Any]:
    return {"motion_gate": 3.0}


def grey(level: int) -> int:
    return level * 0x010101


def gated_features(levels: list[int], threshold: float = 3.0) -> list[int]:
    """Return for each chunk the chunk whose feature the bank should hold: the last one that differed enough."""
    held, reference = [], None
    for level in levels:
        if reference is None or abs(level - reference) >= threshold:
            reference = level
        held.append(grey(reference))
    return held


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 12), min_size=60, max_size=60), st.integers(1, 8), st.integers(1, 8))
def test_a_gated_stream_has_the_features_of_its_last_encoded_chunks(levels: list[int], chunks: int, batch: int) -> None:
    with Rig(streams=2, chunks=chunks, encode_s=0.001, head_s=0.001, max_batch=batch, settings=gated) as rig:
        events = rig.run(10, number=lambda stream, i: grey(levels[(i + 7 * stream) % 60]))
        encoded = 0
        for k, camera in enumerate(rig.cameras):
            held = gated_features([levels[(i + 7 * k) % 60] for i in range(len(camera.written))])
            mine = [body for _, stream, body in events if stream == camera.name]
            assert len(mine) == len(held) - chunks + 1 - camera.feed.waiting
            for body in mine:
                first = round(body["window"]["start_s"] * CHUNKS_PER_S)
                want = answer(held[first : first + chunks])
                assert dict(body["top"])["a"] == pytest.approx(want, abs=1e-5)
            assert mine[-1].get("gated", 0) == camera.feed.gated
            encoded += camera.feed.chunks_read - camera.feed.gated
        assert rig.engine.encoded == encoded


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.lists(st.lists(st.sampled_from([0, 1, 9, 18]), max_size=3), min_size=3, max_size=3), max_size=12),
    st.integers(2, 16),
)
def test_batches_with_new_and_unchanged_chunks_do_not_mix_them_up(rounds: list[list[list[int]]], batch: int) -> None:
    with Rig(streams=3, chunks=3, encode_s=0, head_s=0, max_batch=batch, settings=gated) as rig:
        levels: list[list[int]] = [[], [], []]
        for each in rounds:
            for camera, written, brought in zip(rig.cameras, levels, each, strict=True):
                for level in brought:
                    camera.chunk(grey(level), rig.now_s)
                    written.append(level)
            while rig.classifier.step():
                pass
        for camera, written in zip(rig.cameras, levels, strict=True):
            held = gated_features(written)
            found = [dict(body["top"])["a"] for _, stream, body in rig.events if stream == camera.name]
            assert found == pytest.approx([answer(held[i - 3 : i]) for i in range(3, len(held) + 1)], abs=1e-5)


def test_slow_drift_adds_up_until_it_counts() -> None:
    with Rig(streams=1, chunks=4, encode_s=0.001, head_s=0.001, settings=gated) as rig:
        rig.run(20, number=lambda _, i: grey(i // 2))
        chunks = len(rig.cameras[0].written)
        assert rig.cameras[0].feed.gated == pytest.approx(chunks * 5 / 6, abs=1)


def test_an_unchanged_scene_needs_neither_encodes_nor_heads() -> None:
    with Rig(streams=3, chunks=4, encode_s=0.001, head_s=0.001, settings=lambda i: gated(i) if i else {}) as rig:
        events = rig.run(20, number=lambda stream, i: grey(9))
        free, *rest = per_stream(rig, events)
        assert free == rest[0] == rest[1]
        assert rig.engine.encoded == len(rig.cameras[0].written) - rig.cameras[0].feed.waiting + 2
        assert rig.engine.classified == free + 2
        check_probabilities(rig, events)
        assert "gated" not in next(body for _, stream, body in events if stream == "cam0")


def test_a_gate_can_be_set_and_removed_while_the_stream_runs() -> None:
    with Rig(streams=1, chunks=4, encode_s=0.001, head_s=0.001) as rig:
        settings_now = rig.cameras[0].feed.settings
        encoded = []
        for threshold in (0.0, 2.0, 0.0):
            before = rig.engine.encoded
            now = settings_now.model_copy(update={"motion_gate": threshold})
            rig.classifier.update_feed("cam0", now, {"": HeadSettings()})
            rig.run(10, number=lambda *_: grey(9))
            encoded.append(rig.engine.encoded - before)
        assert encoded[1] == 1
        assert encoded[0] >= 49 <= encoded[2]


def test_another_engine_computes_the_last_window_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A still scene reuses the probabilities of the window before, but not those of another engine."""
    with Rig(streams=1, chunks=4, encode_s=0.001, head_s=0.001, settings=gated) as rig:
        rig.run(5, number=lambda *_: grey(9))
        before = rig.engine.classified
        monkeypatch.setattr(ServingGroup, "has_changes", True)
        monkeypatch.setattr(ServingGroup, "poll", lambda _: [ServingChange()])
        assert rig.classifier.update_engines() == []
        rig.run(5, number=lambda *_: grey(9))
        assert rig.engine.classified == before + 1


def test_the_head_runs_again_after_an_object_moved_and_came_back() -> None:
    with Rig(streams=1, chunks=2, encode_s=0.001, head_s=0.001, settings=gated) as rig:
        events = rig.run(30, number=lambda _, i: grey(40 if i % 20 == 7 else 9))
        moved = [dict(body["top"])["a"] for _, _, body in events]
        still = answer([grey(9)] * 2)
        assert sum(value != pytest.approx(still, abs=1e-5) for value in moved) == sum(
            2 for i in range(len(rig.cameras[0].written) - 1) if i % 20 == 7
        )
        assert np.isclose(moved[-1], still) or len(rig.cameras[0].written) % 20 in (8, 9)


def test_the_log_tells_an_overload_in_words(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "classifier")
    rig = Rig(**ENCODE_BOUND)
    rig.run(100.0)
    lines = [record.getMessage() for record in caplog.records]
    assert re.fullmatch(
        r"overload: \d of 8 streams wait in turn: the classifier needs [12]\.\d times what this machine has", lines[0]
    )
    assert len(lines) <= 4, "at most one line a minute while it lasts"
    rig.engine.encode_s /= 10
    rig.run(60.0)
    assert caplog.records[-1].getMessage() == ("the overload is over: every stream is served again, with its own hop")
