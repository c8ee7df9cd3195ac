"""Each view shows its own part of the picture; a region that is too small stops no other view."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from support.clips import draw

from engines.arrays import U8
from streamclf.capture.view import ViewSet
from streamclf.config.picture_area import PictureArea
from streamclf.runtime.capture_job import CaptureChange, ViewJob
from streamclf.runtime.profiling import open_stages
from streamclf.sources.frame import Frame
from streamclf.sources.resize import render_rgb
from streamclf.windows.ring import RingReader, create_ring
from streamclf.windows.sampling import ChunkMeta

MS = 1_000_000


def frame(number: int, width: int = 320, height: int = 180) -> Frame:
    return Frame(
        index=number, pts_ns=number * 100 * MS, captured_ns=number, width=width, height=height,
        image=draw(number, width, height), render=render_rgb,
    )  # fmt: skip


class Views:
    """Views of (height, width) 90x160 at 10 frames per second, with their rings."""

    def __init__(self, areas: dict[str, PictureArea]) -> None:
        self.committed: list[U8] = []
        self.readers: dict[str, RingReader] = {}
        jobs = []
        for name, area in areas.items():
            ring, (_, wake) = create_ring(32, (1, 90, 160, 3)), os.pipe()
            self.readers[name] = RingReader(ring)
            jobs.append(
                ViewJob(
                    view=name, area=area, fps=10, frames_per_chunk=1, height=90, width=160, resize="stretch",
                    ring_fd=ring, wake_fd=wake,
                )
            )  # fmt: skip
        self.set = ViewSet(jobs, "yard", threading.Event(), open_stages("test"), self._on_commit)

    def _on_commit(self, chunk: ChunkMeta, pixels: U8) -> None:
        self.committed.append(pixels[0].copy())

    def add(self, frame: Frame) -> None:
        for view in self.set:
            view.add(frame)

    def newest(self, name: str) -> tuple[ChunkMeta, U8]:
        reader, out = self.readers[name], np.empty((1, 90, 160, 3), np.uint8)
        meta = reader.read(reader.head - 1, out)
        assert meta is not None
        return meta, out[0]


@contextmanager
def open_views(areas: dict[str, PictureArea]) -> Iterator[Views]:
    views = Views(areas)
    try:
        yield views
    finally:
        for view in list(views.set):
            view.close()
        for reader in views.readers.values():
            reader.close()


LEFT, RIGHT = PictureArea(region=(0, 0, 0.5, 1)), PictureArea(region=(0.5, 0, 1, 1), mask=[[0.9, 0.9, 1, 1]])
THIN = PictureArea(region=(0, 0, 0.03, 1))


def test_each_view_shows_its_part_and_a_changed_area_begins_a_segment() -> None:
    with open_views({"classifier/left": LEFT, "classifier/right": RIGHT}) as views:
        for number in range(3):
            views.add(frame(number))
        for name, area in (("classifier/left", LEFT), ("classifier/right", RIGHT)):
            assert (views.newest(name)[1] == frame(2).to_rgb(90, 160, area=area)).all()
        before = views.newest("classifier/left")[0].segment
        views.set.apply(CaptureChange(update={"classifier/left": RIGHT}), ())
        for number in range(3, 6):
            views.add(frame(number))
        meta, pixels = views.newest("classifier/left")
        assert meta.segment == before + 1
        assert (pixels == frame(5).to_rgb(90, 160, area=RIGHT)).all()
        assert views.newest("classifier/right")[0].segment == before


def test_a_region_that_is_too_small_is_named_and_the_others_go_on() -> None:
    with open_views({"classifier/thin": THIN, "classifier/left": LEFT}) as views:
        for number in range(3):
            views.add(frame(number))
        assert views.set.fault == (
            "thin: region [0, 0, 0.03, 1] is 10x180 pixels of a picture of 320x180: at least 16x16; make the region "
            "larger, or let the camera send larger pictures"
        )
        assert views.readers["classifier/thin"].head == 0
        assert views.readers["classifier/left"].head > 0
        assert len(views.committed) == views.readers["classifier/left"].head
        for number in range(3, 6):
            views.add(frame(number, 640, 360))
        assert views.set.fault is None
        assert views.readers["classifier/thin"].head > 0, "the camera sends larger pictures now"


def test_a_frozen_stream_is_judged_by_the_view_that_shows_most() -> None:
    areas = {"a/left": LEFT, "b": PictureArea(), "a/right": RIGHT}
    with open_views(areas) as views:
        for number in range(3):
            views.add(frame(number))
        assert len(views.committed) >= 2
        assert (views.committed[1] == frame(1).to_rgb(90, 160)).all()
