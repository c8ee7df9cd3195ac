"""Check how a capture process feeds its clips: packets where the source has them, else pictures at a bounded rate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.clips import draw, write_clip

from streamclf.capture.clip_feed import ClipFeed
from streamclf.config.clips import ClipsConfig
from streamclf.config.source import SourceConfig
from streamclf.events.drafts import Draft
from streamclf.sources import open_source
from streamclf.sources.frame import Frame, Source
from streamclf.sources.resize import render_bgr
from streamclf.units import NS

pytest.importorskip("cv2")


class NoPackets:
    """Stand for a source that hands on no packets."""

    def set_packet_sink(self, sink: Any) -> None:
        pass


def feed(folder: Path) -> ClipFeed:
    posted: list[Draft] = []
    return ClipFeed("door", ClipsConfig(folder=folder), posted.append)


def frame(index: int, pts_ns: int, **more: Any) -> Frame:
    image = draw(index, 1280, 720) if index % 8 == 0 else np.zeros((720, 1280, 3), np.uint8)
    return Frame(
        index=index, pts_ns=pts_ns, captured_ns=pts_ns, width=1280, height=720, image=image, render=render_bgr, **more
    )


def kept(clips: ClipFeed) -> list[Any]:
    return list(clips._ring.packets_from(0, 10_000))


def connect(clips: ClipFeed) -> None:
    source: Any = NoPackets()
    clips.connect(source)


@pytest.mark.parametrize("fps", [5, 10, 12, 25, 30, 60])
def test_a_source_without_packets_gives_ten_small_pictures_a_second_at_most(tmp_path: Path, fps: int) -> None:
    clips = feed(tmp_path)
    connect(clips)
    for index in range(3 * fps):
        clips.add_frame(frame(index, index * NS // fps))
    entries = kept(clips)
    assert len(entries) == pytest.approx(3 * min(fps, 10), abs=1)
    assert all(entry.key and entry.format.codec == "jpeg" for entry in entries)
    assert max(len(entry.data) for entry in entries) < 200_000


def test_a_source_that_begins_again_keeps_its_rate_and_begins_another_film(tmp_path: Path) -> None:
    clips = feed(tmp_path)
    connect(clips)
    for round_ in range(2):
        for index in range(100):
            clips.add_frame(frame(100 * round_ + index, index * NS // 25))
    second = [entry for entry in kept(clips) if entry.format is kept(clips)[-1].format]
    assert len(second) == 40
    assert second[0].at_ns == 0


def test_repeated_and_skipped_frames_give_no_picture(tmp_path: Path) -> None:
    clips = feed(tmp_path)
    connect(clips)
    clips.add_frame(frame(0, 0))
    clips.add_frame(frame(1, NS, repeated=True))
    clips.add_frame(Frame(index=2, pts_ns=2 * NS, captured_ns=0, width=4, height=4, image=None, render=render_bgr))
    assert len(kept(clips)) == 1


def test_a_source_with_packets_gives_them_with_the_times_of_its_frames(tmp_path: Path) -> None:
    clips = feed(tmp_path)
    path = write_clip(tmp_path / "a.mp4", frames=30, gop=10)
    source: Source
    with open_source(SourceConfig(url=str(path), pace="fast")) as source:
        clips.connect(source)
        frames = [each.pts_ns for each in source if clips.add_frame(each) is None]
    clips.disconnect()
    assert [entry.at_ns for entry in kept(clips)] == frames
    assert [entry.key for entry in kept(clips)] == [number % 10 == 0 for number in range(30)]
    assert {"clips", "clip_bytes", "clips_lost", "clips_late", "clips_evicted"} == clips.counters.keys()
