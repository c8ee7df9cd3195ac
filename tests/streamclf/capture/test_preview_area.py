"""Previews, pictures of clips and stills show what people may see: rotated, mirrored and masked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.clips import draw, read_number

from engines.arrays import U8
from streamclf.capture.clip_feed import ClipFeed
from streamclf.capture.preview import Previewer
from streamclf.config.clips import ClipsConfig
from streamclf.config.picture_area import PictureArea
from streamclf.sources.frame import Frame
from streamclf.sources.resize import render_bgr

cv2 = pytest.importorskip("cv2")

PICTURE = PictureArea(rotate=90, flip="horizontal", mask=[[0, 0.75, 1, 1]])


def frame() -> Frame:
    image = np.ascontiguousarray(draw(5, 1280, 720)[..., ::-1])
    return Frame(index=0, pts_ns=0, captured_ns=0, width=1280, height=720, image=image, render=render_bgr)


def check(jpeg: bytes) -> None:
    bgr: Any = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert bgr.shape == (640, 360, 3)
    assert bgr[482:].max() < 8, "the mask"
    upright: U8 = np.ascontiguousarray(np.rot90(bgr[:, ::-1], 1)[..., ::-1])  # undo flip and rotation
    expected = cv2.resize(draw(5, 1280, 720), (640, 360), interpolation=cv2.INTER_AREA).astype(int)
    assert np.abs(upright[:, :470] - expected[:, :470]).mean() < 6


class Watched:
    def __init__(self) -> None:
        self.posted: list[bytes] = []

    def preview_wanted(self, stream: str) -> bool:
        return True

    def post_preview(self, stream: str, jpeg: bytes) -> None:
        self.posted.append(jpeg)


def test_a_preview_is_rotated_mirrored_and_masked() -> None:
    producer = Watched()
    Previewer(producer, "door", PICTURE).update(frame())
    check(producer.posted[0])


def test_a_preview_without_such_keys_is_the_camera_s_picture() -> None:
    producer = Watched()
    Previewer(producer, "door").update(frame())
    bgr: Any = cv2.imdecode(np.frombuffer(producer.posted[0], np.uint8), cv2.IMREAD_COLOR)
    assert read_number(np.ascontiguousarray(bgr[..., ::-1]), 320, 180) == 5


class NoPackets:
    def set_packet_sink(self, sink: Any) -> None:
        pass


def test_a_film_that_the_service_encodes_is_rotated_mirrored_and_masked(tmp_path: Path) -> None:
    clips = ClipFeed("door", ClipsConfig(folder=tmp_path), lambda draft: None, picture=PICTURE)
    source: Any = NoPackets()
    clips.connect(source)
    clips.add_frame(frame())
    (entry,) = clips._ring.packets_from(0, 10)
    check(entry.data)
