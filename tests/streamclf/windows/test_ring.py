"""The ring between processes: no torn chunks, even if writers are killed, and no leaks."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import numpy as np
import pytest

from engines.arrays import U8
from streamclf.errors import RingError
from streamclf.runtime import shared_memory
from streamclf.windows.ring import RingReader, RingWriter, create_ring
from streamclf.windows.ring_progress import ProgressReporter, ProgressWaiter
from streamclf.windows.sampling import ChunkMeta

SHAPE = (2, 64, 64, 3)
SLOTS = 6
DEADLINE_S = 60.0

WRITER = """
import sys
from streamclf.windows.ring import RingWriter
from streamclf.windows.sampling import ChunkMeta
writer = RingWriter(int(sys.argv[1]))
segment = writer.next_segment
for i in range(10**9):
    number = writer.head
    place = writer.begin()
    for frame in place:
        frame[...] = number % 251
    if sys.argv[2] == "half":
        place[1] = 0
        print("half", flush=True)
        sys.stdin.read()
    writer.commit(ChunkMeta(segment=segment, index=i, start_pts_ns=number, end_pts_ns=-number, captured_ns=number,
                            frames=2, duplicates=number % 3, corrupt=0))
"""


def chunk(number: int, segment: int = 1) -> ChunkMeta:
    return ChunkMeta(
        segment=segment,
        index=number,
        start_pts_ns=-number,
        end_pts_ns=number,
        captured_ns=number,
        frames=2,
        duplicates=0,
        corrupt=1,
    )


@contextmanager
def new_ring(**options: bool) -> Iterator[int]:
    fd = create_ring(SLOTS, SHAPE, **options)
    try:
        yield fd
    finally:
        os.close(fd)


@contextmanager
def writer_process(fd: int, mode: str = "run") -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(fd), mode], pass_fds=(fd,), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, f"not within {DEADLINE_S} s: {what}"
        time.sleep(0.001)


@pytest.mark.parametrize("checked", [False, True])
def test_chunks_are_readable_until_they_are_overwritten(checked: bool) -> None:
    with new_ring(checked=checked) as fd:
        writer, reader = RingWriter(fd), RingReader(fd)
        out = np.empty(SHAPE, np.uint8)
        assert reader.read(0, out) is None
        for number in range(20):
            writer.begin()[...] = number
            assert writer.commit(chunk(number)) == number
            assert reader.head == number + 1
            assert reader.read(number, out) == chunk(number)
            assert (out == number).all()
        assert reader.oldest == 20 - SLOTS + 1
        for number in range(reader.oldest, 20):
            assert reader.read(number, out) == chunk(number)
        assert reader.read(20 - SLOTS - 1, out) is None
        assert reader.read(20, out) is None
        assert reader.read(-1, out) is None


def test_unfinished_and_abandoned_chunks_are_not_readable() -> None:
    with new_ring() as fd:
        writer, reader = RingWriter(fd), RingReader(fd)
        out = np.empty(SHAPE, np.uint8)
        for number in range(SLOTS):
            writer.begin()[...] = number
            writer.commit(chunk(number))
        assert reader.read(0, out) is not None
        writer.begin()  # reuses the slot of the oldest chunk
        assert reader.read(0, out) is None
        writer.begin()[...] = 99
        assert writer.commit(chunk(SLOTS)) == SLOTS
        assert reader.read(SLOTS, out) == chunk(SLOTS)
        assert (out == 99).all()
        with pytest.raises(RingError, match="without begin"):
            writer.commit(chunk(7))


def test_commit_calls_back_after_the_chunk_is_readable() -> None:
    with new_ring() as fd:
        reader, out = RingReader(fd), np.empty(SHAPE, np.uint8)
        calls: list[tuple[ChunkMeta, int]] = []

        def record(meta: ChunkMeta, pixels: U8) -> None:
            assert reader.read(meta.index, out) == meta
            calls.append((meta, int(pixels[1, 2, 3, 0])))

        writer = RingWriter(fd, on_commit=[record, record])
        for number in range(SLOTS + 1):
            writer.begin()[...] = number
            writer.commit(chunk(number))
        assert calls == [(chunk(number), number) for number in range(SLOTS + 1) for _ in range(2)]


def test_a_writer_with_progress_waits_for_its_reader() -> None:
    read_fd, write_fd = os.pipe()
    os.set_blocking(read_fd, False)
    stop = threading.Event()
    with new_ring() as fd:
        reader, reporter = RingReader(fd), ProgressReporter(write_fd)
        writer = RingWriter(fd, progress=ProgressWaiter(read_fd, stop))

        def write() -> None:
            for number in range(3 * SLOTS):
                writer.begin()[...] = number
                writer.commit(chunk(number))
            writer.wait_until_read()

        thread = threading.Thread(target=write, daemon=True)
        thread.start()
        out = np.empty(SHAPE, np.uint8)
        for number in range(3 * SLOTS):
            wait_until(lambda number=number: reader.head > number, f"chunk {number}")
            assert reader.read(number, out) == chunk(number), "no chunk is overwritten before it is read"
            assert thread.is_alive()
            reporter.read_up_to(number + 1)
        thread.join(DEADLINE_S)
        assert not thread.is_alive()
    os.close(read_fd)
    os.close(write_fd)


def test_the_checksum_detects_a_late_store() -> None:
    with new_ring(checked=True) as fd:
        writer, reader = RingWriter(fd), RingReader(fd)
        place = writer.begin()
        place[...] = 1
        writer.commit(chunk(0))
        place[1, 5, 5, 0] = 2  # like a store that another core sees late
        assert reader.read(0, np.empty(SHAPE, np.uint8)) is None


def test_readers_see_no_torn_chunk_of_a_racing_and_killed_writer() -> None:
    out = np.empty(SHAPE, np.uint8)
    whole = lost = 0
    with new_ring() as fd:
        reader = RingReader(fd)
        segments = set()
        for _ in range(5):
            began = reader.head
            with writer_process(fd) as process:
                wait_until(lambda began=began: reader.head > began, "a first chunk")
                while reader.head < began + 2000:
                    assert process.poll() is None
                    for number in (reader.head - 1, reader.oldest):
                        meta = reader.read(number, out)
                        if meta is None:
                            lost += 1
                            continue
                        whole += 1
                        segments.add(meta.segment)
                        assert (meta.start_pts_ns, meta.end_pts_ns, meta.duplicates) == (number, -number, number % 3)
                        assert (out == number % 251).all(), f"chunk {number} is torn"
        assert whole > 100, f"{whole} whole, {lost} overwritten"
        assert len(segments) == 5, "segments must be unique over restarts of the writer"


def test_a_new_writer_repairs_the_slot_of_a_killed_one() -> None:
    out = np.empty(SHAPE, np.uint8)
    with new_ring() as fd:
        first, reader = RingWriter(fd), RingReader(fd)
        for number in range(SLOTS):
            first.begin()[...] = number
            first.commit(chunk(number))
        with writer_process(fd, "half") as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"half\n"
        assert process.returncode == -9
        assert reader.head == SLOTS
        assert reader.read(0, out) is None
        assert reader.read(SLOTS, out) is None
        successor = RingWriter(fd)
        assert successor.generation == 3
        successor.begin()[...] = 42
        assert successor.commit(chunk(SLOTS, segment=successor.next_segment)) == SLOTS
        assert reader.read(SLOTS, out) is not None
        assert (out == 42).all()


def test_the_memory_cannot_be_truncated_and_readers_cannot_write() -> None:
    with new_ring() as fd:
        if sys.platform == "linux":
            with pytest.raises(PermissionError):
                os.ftruncate(fd, 0)
        reader = RingReader(fd)
        with pytest.raises(TypeError):
            reader._head[0] = 0


def test_the_descriptor_may_be_closed_once_attached() -> None:
    fd = create_ring(SLOTS, SHAPE)
    writer, reader = RingWriter(fd), RingReader(fd)
    os.close(fd)
    writer.begin()[...] = 5
    writer.commit(chunk(0))
    assert reader.read(0, np.empty(SHAPE, np.uint8)) == chunk(0)


def test_without_memfd_the_ring_uses_an_unlinked_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_memory.sys, "platform", "darwin")
    test_chunks_are_readable_until_they_are_overwritten(checked=True)


def test_missing_memory_is_an_error_that_names_the_size() -> None:
    with pytest.raises(RingError, match=r"needs 12582912\.5 MiB .* give it .* more memory"):
        create_ring(4096, (64, 4096, 4096, 3))


def test_full_memory_is_an_error_and_leaks_no_descriptor(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int, offset: int, size: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shared_memory.os, "posix_fallocate", full)
    monkeypatch.setattr(shared_memory.sys, "platform", "linux")
    before = open_descriptors()
    with pytest.raises(RingError, match=r"0\.1 MiB of shared memory \(No space left on device\); serve fewer"):
        create_ring(SLOTS, SHAPE)
    assert open_descriptors() == before


@pytest.mark.parametrize(("slots", "shape"), [(1, SHAPE), (4097, SHAPE), (4, (0, 8, 8, 3)), (4, (1, 8, 8, 4))])
def test_impossible_sizes_are_refused(slots: int, shape: tuple[int, int, int, int]) -> None:
    with pytest.raises(RingError, match=r"2 to 4096|must be"):
        create_ring(slots, shape)


def test_memory_that_is_not_a_ring_is_refused() -> None:
    read_fd, write_fd = os.pipe()
    try:
        with pytest.raises(RingError, match="no shared memory"):
            RingReader(read_fd)
    finally:
        os.close(read_fd)
        os.close(write_fd)
    with new_ring() as fd:
        os.pwrite(fd, b"nonsense", 0)
        with pytest.raises(RingError, match="not a ring of version 2"):
            RingWriter(fd)
    with new_ring() as fd:
        os.pwrite(fd, (99).to_bytes(8, "little"), 16)  # the number of slots
        with pytest.raises(RingError, match="damaged ring"):
            RingReader(fd)


def open_descriptors() -> int:
    count = 0
    for fd in range(256):
        with suppress(OSError):
            os.fstat(fd)
            count += 1
    return count
