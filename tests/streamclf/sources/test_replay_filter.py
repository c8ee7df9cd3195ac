"""Segments that a failed connection has returned are dropped by the next one, and only by that."""

from __future__ import annotations

from streamclf.sources.replay_filter import ReplayFilter


def returned(replays: ReplayFilter, numbers: range, *, image: bytes = b"image") -> list[int]:
    """Return the numbers of the packets that are not replays; every fifth is a key frame."""
    return [n for n in numbers if not replays.is_replay(n, image + bytes([n]), key=n % 5 == 0)]


def test_packets_of_a_failed_connection_are_dropped_until_the_first_new_key_frame() -> None:
    first = ReplayFilter("http://a/live.m3u8")
    assert returned(first, range(20)) == list(range(20))
    first.save()
    second = ReplayFilter("http://a/live.m3u8")
    assert returned(second, range(5, 30)) == list(range(20, 30))
    second.save()
    assert returned(ReplayFilter("http://a/live.m3u8"), range(22, 40)) == list(range(30, 40))


def test_a_connection_that_did_not_fail_leaves_nothing() -> None:
    returned(ReplayFilter("http://b/live.m3u8"), range(20))
    assert returned(ReplayFilter("http://b/live.m3u8"), range(5, 30)) == list(range(5, 30))


def test_time_stamps_or_images_alone_make_no_replay() -> None:
    first = ReplayFilter("http://c/live.m3u8")
    returned(first, range(20))
    first.save()
    assert returned(ReplayFilter("http://c/live.m3u8"), range(20), image=b"new") == list(range(20))


def test_equal_key_frames_are_not_dropped_for_ever() -> None:
    still = [(0, b"still"), (1, b"more")] * 3
    first = ReplayFilter("http://d/live.m3u8")
    for pts, data in still:
        first.is_replay(pts, data, key=pts == 0)
    first.save()
    second = ReplayFilter("http://d/live.m3u8")
    assert [second.is_replay(pts, data, key=pts == 0) for pts, data in still] == [True, True, *[False] * 4]
