from __future__ import annotations

from itertools import pairwise

from streamclf.subscribers.web.preview_interest import PreviewInterest

KNOWN = [f"s{number}" for number in range(20)]


def test_only_streams_in_sight_are_requested_all_the_time() -> None:
    interest = PreviewInterest()
    assert interest.choose(KNOWN, 0.0) == frozenset()
    assert not interest.is_watched
    interest.set("a", seen=["s1", "s2", "unknown"])
    interest.set("b", seen=["s2", "s3"])
    assert interest.choose(KNOWN, 0.0) == {"s1", "s2", "s3"}
    interest.remove("b")
    assert interest.choose(KNOWN, 0.0) == {"s1", "s2"}
    interest.remove("a")
    assert interest.choose(KNOWN, 0.0) == frozenset()


def test_streams_out_of_sight_get_a_still_now_and_then_a_few_at_a_time() -> None:
    interest = PreviewInterest()
    interest.set("a", seen=[], stills=KNOWN)
    pictures: dict[str, list[float]] = {name: [] for name in KNOWN}
    most = 0
    for tick in range(200):
        now_s = tick * 0.1
        requested = interest.choose(KNOWN, now_s)
        most = max(most, len(requested))
        for name in requested:
            pictures[name].append(now_s)
            interest.note_picture(name, now_s)
    assert most <= 4
    for times in pictures.values():
        gaps = [later - earlier for earlier, later in pairwise(times)]
        assert gaps, times
        assert min(gaps) >= 5.0 - 1e-6
        assert max(gaps) < 7.0


def test_a_stream_that_sends_no_still_does_not_block_the_others() -> None:
    interest = PreviewInterest()
    interest.set("a", seen=[], stills=["s0", "s1", "s2", "s3", "s4", "s5"])
    alive = set()
    for tick in range(100):
        for name in interest.choose(KNOWN, tick * 0.1):
            if name in ("s4", "s5"):
                interest.note_picture(name, tick * 0.1)
                alive.add(name)
    assert alive == {"s4", "s5"}


def test_a_stream_that_comes_into_sight_is_no_still_any_more() -> None:
    interest = PreviewInterest()
    interest.set("a", seen=[], stills=["s1"])
    assert interest.choose(KNOWN, 0.0) == {"s1"}
    interest.set("a", seen=["s1"], stills=[])
    assert interest.choose(KNOWN, 0.1) == {"s1"}
    interest.set("a", seen=[], stills=[])
    assert interest.choose(KNOWN, 0.2) == frozenset()
    assert not interest.is_watched
