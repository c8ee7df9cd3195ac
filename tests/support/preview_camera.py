"""Post previews of streams as a capture process does: only while a client subscribes to them."""

from __future__ import annotations

import threading
from types import TracebackType

import cv2
import numpy as np

from streamclf.producer.link import EventProducer

INTERVAL_S = 0.02


def grey_jpeg(light: int, width: int = 640, height: int = 360) -> bytes:
    """Return a grey picture."""
    return bytes(cv2.imencode(".jpg", np.full((height, width, 3), light, np.uint8))[1])


class PreviewCamera:
    """A thread that posts `jpeg` of each stream while its preview is wanted."""

    def __init__(self, link: EventProducer, *streams: str) -> None:
        self._link, self._streams = link, streams
        self.jpeg = grey_jpeg(90)
        self.posted = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> PreviewCamera:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: object, trace: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join(60)

    def _run(self) -> None:
        while not self._stop.wait(INTERVAL_S):
            for stream in self._streams:
                if self._link.preview_wanted(stream):
                    self.posted += 1
                    self._link.post_preview(stream, self.jpeg)
