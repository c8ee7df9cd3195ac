"""Make small JPEG previews of a stream while somebody watches it."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from streamclf.config.picture_area import WHOLE, PictureArea
from streamclf.sources.frame import Frame
from streamclf.units import NS

LONGEST_SIDE = 640
"""Largest width and height of a preview in pixels."""
INTERVAL_NS = NS // 12
JPEG_QUALITY = 75


class PreviewProducer(Protocol):
    """The part of `streamclf.producer.link.EventProducer` that previews need."""

    def preview_wanted(self, stream: str) -> bool:
        """Return whether somebody watches this stream now."""

    def post_preview(self, stream: str, jpeg: bytes) -> None:
        """Send `jpeg` to the subscribers of the stream's preview."""


class Previewer:
    """Post at most 12 previews per second of one stream."""

    def __init__(self, producer: PreviewProducer, stream: str, picture: PictureArea = WHOLE) -> None:
        """`picture` says how people see the stream: rotated, mirrored and masked, and without a region."""
        self._producer = producer
        self._picture = picture
        self._stream = stream
        self._due_ns = 0
        self._rgb: npt.NDArray[np.uint8] | None = None

    @property
    def wanted(self) -> bool:
        """Whether somebody watches the preview."""
        return self._producer.preview_wanted(self._stream)

    def update(self, frame: Frame) -> None:
        """Post `frame` if somebody watches, it was decoded, and the last preview is old enough."""
        if frame.captured_ns < self._due_ns or frame.image is None:
            return
        self._due_ns = frame.captured_ns + INTERVAL_NS  # this also limits how often `wanted` is checked
        if not self.wanted:
            return
        import cv2  # 30 MB and a quarter of a second, which a stream without viewers does not pay

        height, width = preview_size(*frame.size_of(self._picture))
        if self._rgb is None or self._rgb.shape != (height, width, 3):
            self._rgb = np.empty((height, width, 3), np.uint8)
        bgr = cv2.cvtColor(frame.to_rgb(height, width, out=self._rgb, area=self._picture), cv2.COLOR_RGB2BGR)
        ok, jpeg = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
        if ok:
            self._producer.post_preview(self._stream, jpeg.tobytes())


def preview_size(height: int, width: int) -> tuple[int, int]:
    """Return the (height, width) of the preview of a frame; a preview is never larger than its frame."""
    longest = max(height, width)
    if longest <= LONGEST_SIDE:
        return height, width
    return max(1, round(height * LONGEST_SIDE / longest)), max(1, round(width * LONGEST_SIDE / longest))
