"""The tracker finds exactly the windows whose chunks are all there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from hypothesis import given
from hypothesis import strategies as st

from streamclf.windows.window_tracker import WindowTracker


def windows(seen: Iterable[tuple[int, int]], size: int, hop: int) -> Iterator[tuple[int, range]]:
    tracker = WindowTracker(size, hop)
    for segment, index in seen:
        if (window := tracker.push(segment, index)) is not None:
            yield segment, window


@given(
    lengths=st.lists(st.integers(0, 30), min_size=1, max_size=5),
    size=st.integers(1, 8),
    hop=st.integers(1, 5),
    dropped=st.sets(st.integers(0, 150)),
)
def test_the_tracker_finds_exactly_the_complete_windows(
    lengths: list[int], size: int, hop: int, dropped: set[int]
) -> None:
    sent = [(segment, index) for segment, length in enumerate(lengths) for index in range(length)]
    seen = [chunk for i, chunk in enumerate(sent) if i not in dropped]
    expected = [
        (segment, range(first, first + size))
        for segment, length in enumerate(lengths)
        for first in range(0, length - size + 1, hop)
        if all((segment, index) in seen for index in range(first, first + size))
    ]
    assert list(windows(seen, size, hop)) == expected


def test_only_chunks_that_a_window_can_contain_are_needed() -> None:
    """Windows of 3 begin at 1, 9, 17. Chunks between them, and of a window that lacks a chunk, are not needed."""
    tracker = WindowTracker(3, 8)
    tracker.phase = 1
    needed, windows = [], []
    for index in range(24):
        if index == 9:
            continue  # lost
        if tracker.needs(1, index):
            needed.append(index)
            if (window := tracker.push(1, index)) is not None:
                windows.append(window)
        else:
            tracker.skip()
    assert needed == [1, 2, 3, 17, 18, 19]
    assert windows == [range(1, 4), range(17, 20)]


@given(
    size=st.integers(1, 6),
    hop=st.integers(1, 9),
    phase=st.integers(0, 5),
    jumps=st.lists(st.integers(0, 3), max_size=12),
)
def test_chunks_until_window_predicts_the_next_window(size: int, hop: int, phase: int, jumps: list[int]) -> None:
    """With any missing chunks before, the next window is complete after exactly that many chunks."""
    tracker = WindowTracker(size, hop)
    tracker.phase = phase
    assert tracker.chunks_until_window() == 1
    index = 0
    for jump in jumps:
        index += jump
        tracker.push(1, index)
        index += 1
    if not jumps:
        return
    ahead = tracker.chunks_until_window()
    windows = [tracker.push(1, index + i) is not None for i in range(ahead)]
    assert windows == [False] * (ahead - 1) + [True]
