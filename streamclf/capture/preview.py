"""Small JPEG pictures of a stream, made only while somebody watches."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from streamclf.sources.frame import Frame
from streamclf.windows.sampling import NS

LONGEST_SIDE = 640
INTERVAL_NS = NS // 12
JPEG_QUALITY = 75


class PreviewLink(Protocol):
    """The part of `streamclf.producer.link.EventProducer` that previews need."""

    def preview_wanted(self, stream: str) -> bool:
        """Whether somebody watches this stream now."""

    def post_preview(self, stream: str, jpeg: bytes) -> None:
        """Show `jpeg` to those who do."""


class Previewer:
    """Posts at most 12 pictures per second of one stream."""

    def __init__(self, link: PreviewLink, stream: str) -> None:
        self._link = link
        self._stream = stream
        self._due_ns = 0
        self._rgb: npt.NDArray[np.uint8] | None = None

    @property
    def wanted(self) -> bool:
        """Whether somebody watches."""
        return self._link.preview_wanted(self._stream)

    def offer(self, frame: Frame) -> None:
        """Post `frame` if it is wanted, was decoded, and the last one is not too recent."""
        if frame.captured_ns < self._due_ns or frame.picture is None:
            return
        self._due_ns = frame.captured_ns + INTERVAL_NS  # nor is it asked more often whether anybody watches
        if not self.wanted:
            return
        import cv2  # 30 MB and a quarter of a second that a stream which nobody watches can do without

        height, width = preview_size(frame.height, frame.width)
        if self._rgb is None or self._rgb.shape != (height, width, 3):
            self._rgb = np.empty((height, width, 3), np.uint8)
        bgr = cv2.cvtColor(frame.to_rgb(height, width, out=self._rgb), cv2.COLOR_RGB2BGR)
        ok, jpeg = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
        if ok:
            self._link.post_preview(self._stream, jpeg.tobytes())


def preview_size(height: int, width: int) -> tuple[int, int]:
    """(height, width) of the preview of a picture; never larger than the picture."""
    longest = max(height, width)
    if longest <= LONGEST_SIDE:
        return height, width
    return max(1, round(height * LONGEST_SIDE / longest)), max(1, round(width * LONGEST_SIDE / longest))
