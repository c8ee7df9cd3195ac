"""Status events of a stream whose source is polled only a few times a second."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from streamclf.capture.status_reporter import SOURCE_POLL_NS, StatusReporter
from streamclf.capture.view import COUNTERS
from streamclf.events.drafts import Draft
from streamclf.sources import Frame, Source, SourceInfo
from streamclf.units import NS
from streamclf.windows.sampling import ChunkSampler

MS = 1_000_000


class RecordedPosts:
    def __init__(self) -> None:
        self.bodies: list[Mapping[str, Any]] = []

    def post(self, draft: Draft) -> None:
        self.bodies.append(draft.body)

    @property
    def last(self) -> dict[str, Any]:
        found: dict[str, Any] = self.bodies[-1]["counters"]
        return found


class CountingSource(Source):
    """A source that counts the reads of its info."""

    live = True

    def __init__(self) -> None:
        self.info_reads = 0
        self.note: str | None = None

    def __next__(self) -> Frame:
        raise StopIteration

    @property
    def info(self) -> SourceInfo:
        self.info_reads += 1
        return SourceInfo(codec="h264", width=2, height=2, fps=25.0, note=self.note)

    def close(self) -> None:
        return


def frame(at_ns: int, **keys: Any) -> Frame:
    made = Frame(
        index=0,
        pts_ns=at_ns,
        captured_ns=NS + at_ns,
        width=2,
        height=2,
        image=np.zeros((2, 2, 3), np.uint8),
        render=lambda *_: None,
    )
    return replace(made, **keys)


@pytest.fixture
def posted() -> RecordedPosts:
    return RecordedPosts()


@pytest.fixture
def sampler() -> ChunkSampler:
    return ChunkSampler(25, 2)


@pytest.fixture
def status(posted: RecordedPosts, sampler: ChunkSampler) -> StatusReporter:
    def counters() -> dict[str, int]:
        return {name: getattr(sampler, key) for name, key in COUNTERS.items()}

    return StatusReporter("door", posted, counters, silence_is_stall=True)  # without `with`, its thread does not run


def test_source_info_is_read_a_few_times_a_second(status: StatusReporter) -> None:
    source = CountingSource()
    for i in range(100):
        status.on_frame(frame(i * 40 * MS), source)
    assert source.info_reads <= 1 + 100 * 40 * MS // SOURCE_POLL_NS


def test_all_counters_are_final_when_a_connection_ends(status: StatusReporter, posted: RecordedPosts) -> None:
    source = CountingSource()
    status.on_frame(frame(0), source)
    status.on_frame(frame(40 * MS), source)
    source.lost, source.undecodable, source.dropped_by_sender, source.stale = 3, 2, 1, 4
    status.on_frame(frame(80 * MS), source)
    status.on_disconnect(source)
    status.on_fault("connection reset")
    counters = ("frames", "lost", "undecodable", "dropped_sender", "dropped_stale")
    assert [posted.last[name] for name in counters] == [3, 3, 2, 1, 4]
    again = CountingSource()  # a new source counts from 0
    again.lost, again.note = 1, "decoded by the CPU"
    status.on_frame(frame(120 * MS), again)
    assert (posted.bodies[-1]["state"], posted.bodies[-1]["note"]) == ("live", again.note), "at once"
    status.on_disconnect(again)
    status.on_end("gone")
    assert [posted.last[name] for name in counters] == [4, 4, 2, 1, 4]


def test_the_first_report_describes_the_first_frame(status: StatusReporter, posted: RecordedPosts) -> None:
    source = CountingSource()
    source.note = "read through FFmpeg's demuxer"
    status.on_frame(frame(0, width=640, height=360, corrupt=True, wall_ns=1_700_000_000 * NS), source)
    (body,) = posted.bodies
    assert (body["state"], body["codec"], body["note"]) == ("live", "h264", source.note)
    assert {"frames": 1, "corrupt": 1, "skipped": 0, "width": 640, "height": 360}.items() <= posted.last.items()
    assert posted.last["wall_offset_s"] == 1_700_000_000


def test_damage_is_counted_with_the_frame_that_shows_it(status: StatusReporter, posted: RecordedPosts) -> None:
    source = CountingSource()
    for i in range(3):
        status.on_frame(frame(i * 20 * MS), source)
    source.lost = 7
    status.on_frame(frame(60 * MS, corrupt=True), source)
    status.set_frozen(11.0)
    status.on_frame(frame(80 * MS), source)
    assert posted.bodies[-1]["state"] == "frozen"
    assert (posted.last["lost"], posted.last["corrupt"]) == (7, 1)


def test_sampler_counters_are_reported(status: StatusReporter, posted: RecordedPosts, sampler: ChunkSampler) -> None:
    source = CountingSource()
    for i in range(5):
        status.on_frame(frame(i * 40 * MS), source)
        sampler.push(i * 40 * MS, NS)
    status.on_disconnect(source)
    status.on_end("end of the file", finished=True)
    assert {"chunks": 2, "sampled": 5, "dropped_partial": 0, "dropped_corrupt": 0}.items() <= posted.last.items()
