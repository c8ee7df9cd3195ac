"""Connect the clips to a capture process: its source feeds the ring, and its frames give the packets their times."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import numpy as np
import numpy.typing as npt

from streamclf.capture.preview import preview_size
from streamclf.clips.folder import ClipFolder
from streamclf.clips.retention import ClipRetention
from streamclf.clips.ring import PacketRing
from streamclf.clips.stills import make_pictures
from streamclf.clips.writer import ClipWriter
from streamclf.config.clips import ClipsConfig
from streamclf.events.drafts import Draft
from streamclf.sources.frame import Frame, Source
from streamclf.units import NS

DECISION_S: Final = 10.0
"""Video kept in addition to `before_s`: an action is known `min_s` and some tenths of a second after it has begun."""
USUAL_DECISION_S: Final = 2.0
"""With less video than `before_s` and this, a usual film would begin late: `clips_evicted` counts the packets."""
PICTURE_INTERVAL_NS: Final = NS // 10
EARLY_NS: Final = PICTURE_INTERVAL_NS // 4
"""A picture may come so much before it is due: the frames of a camera with ten frames a second vary a little."""
PICTURE_QUALITY: Final = 80


class ClipFeed:
    """The ring and the writer of one stream; used by the capture loop, but for `add_action` and `counters`."""

    def __init__(self, stream: str, config: ClipsConfig, post: Callable[[Draft], None]) -> None:
        keep_ns = round((config.before_s + DECISION_S) * NS)
        needed_ns = round((config.before_s + USUAL_DECISION_S) * NS)
        self._ring = PacketRing(keep_ns=keep_ns, max_bytes=config.before_size, needed_ns=needed_ns)
        self._pictures = _PictureFeed(self._ring)
        folder = ClipFolder(config.folder)
        self._retention = ClipRetention(folder, keep_s=config.keep, keep_bytes=config.keep_size)
        self._writer = ClipWriter(
            stream, config, self._ring, post, after_film=make_pictures, housekeeping=self._retention.run_if_due
        )
        self._takes_pictures = False

    def start(self) -> None:
        """Start the writer's thread."""
        self._writer.start()

    @property
    def add_action(self) -> Callable[[int, bytes], None]:
        """The listener for the hub's action events, which another thread calls."""
        return self._writer.add_action

    @property
    def counters(self) -> dict[str, int]:
        """The counters of the stream's status."""
        return self._writer.counters

    def connect(self, source: Source) -> None:
        """Begin with a source that was opened. A source without packets gives small pictures instead."""
        self._ring.end()
        source.set_packet_sink(self._ring)
        self._takes_pictures = not self._ring.has_packets

    def add_frame(self, frame: Frame) -> None:
        """Add the next fresh frame of the source."""
        if self._takes_pictures:
            self._pictures.add(frame)
        else:
            self._ring.add_frame(frame, time.time_ns())

    def disconnect(self) -> None:
        """End with a source that is closed."""
        self._ring.end()

    def close(self, deadline_s: float) -> None:
        """Complete the film that is written, if that takes no longer than `deadline_s`."""
        if self._writer.close(deadline_s):
            self._retention.close()


class _PictureFeed:
    """Keep ten small JPEG pictures a second of a source without packets; the writer encodes them for a film."""

    def __init__(self, ring: PacketRing) -> None:
        self._ring = ring
        self._due_ns: int | None = None
        self._rgb: npt.NDArray[np.uint8] | None = None

    def add(self, frame: Frame) -> None:
        """Keep the picture of `frame` if one is due."""
        due_ns = self._due_ns
        if frame.image is None or frame.repeated:
            return
        if due_ns is not None and EARLY_NS < due_ns - frame.pts_ns <= NS:
            return
        # The grid of due times, so that 25 pictures a second give ten and not eight.
        is_on_grid = due_ns is not None and -EARLY_NS <= frame.pts_ns - due_ns < PICTURE_INTERVAL_NS
        self._due_ns = (due_ns if is_on_grid and due_ns is not None else frame.pts_ns) + PICTURE_INTERVAL_NS
        import cv2  # 30 MB and a quarter of a second, which other sources do not pay

        height, width = preview_size(frame.height, frame.width)
        if self._rgb is None or self._rgb.shape != (height, width, 3):
            self._rgb = np.empty((height, width, 3), np.uint8)
        bgr = cv2.cvtColor(frame.to_rgb(height, width, out=self._rgb), cv2.COLOR_RGB2BGR)
        ok, jpeg = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, PICTURE_QUALITY])
        if ok:
            self._ring.push_picture(jpeg.tobytes(), frame.pts_ns, time.time_ns())
