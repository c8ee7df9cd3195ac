"""Connect the clips to a capture process: its source feeds the ring, and its frames give the packets their times."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

import numpy as np
import numpy.typing as npt

from streamclf.capture.preview import preview_size
from streamclf.clips.example_writer import Answer, ExampleWriter
from streamclf.clips.folder import ClipFolder
from streamclf.clips.retention import ClipRetention
from streamclf.clips.ring import PacketRing
from streamclf.clips.stills import make_pictures
from streamclf.clips.writer import ClipWriter
from streamclf.config.clips import ClipsConfig
from streamclf.config.examples import ExamplesConfig
from streamclf.config.picture_area import WHOLE, PictureArea
from streamclf.errors import EventError
from streamclf.events.drafts import Draft
from streamclf.events.example_request import ExampleResult, parse_example_request
from streamclf.events.views import Area
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
    """The ring and the writers of one stream; used by the capture loop, but for its listeners and `counters`."""

    def __init__(
        self,
        stream: str,
        config: ClipsConfig | None,
        post: Callable[[Draft], None],
        examples: ExamplesConfig | None = None,
        answer: Answer = lambda request_id, result: None,
        picture: PictureArea = WHOLE,
    ) -> None:
        """Write films of actions if `config` is set, and examples if `examples` is; `answer` gets their results.

        `picture` says how stills show the stream. Films of packets are copies: they show what the camera sends.
        """
        self.areas: Callable[[], Mapping[str, Area]] = dict
        """Returns the rectangle of each region, for stills."""
        self._ring = PacketRing(**_ring_limits(config, examples))
        self._pictures = _PictureFeed(self._ring, picture)
        self._retention: ClipRetention | None = None
        self._writer: ClipWriter | None = None
        if config is not None:
            self._retention = ClipRetention(ClipFolder(config.folder), keep_s=config.keep, keep_bytes=config.keep_size)
            self._writer = ClipWriter(
                stream,
                config,
                self._ring,
                post,
                after_film=partial(make_pictures, picture=picture, areas=lambda: self.areas()),
                housekeeping=self._retention.run_if_due,
            )
        self._examples = None if examples is None else ExampleWriter(stream, examples, self._ring, answer)
        self._answer = answer
        self.takes_pictures = False
        """Whether films are made of the source's pictures, because it has no packets."""

    def start(self) -> None:
        """Start the threads of the writers."""
        for writer in (self._writer, self._examples):
            if writer is not None:
                writer.start()

    @property
    def add_action(self) -> Callable[[int, bytes], None] | None:
        """The listener for the hub's action events, which another thread calls; None without films of actions."""
        return None if self._writer is None else self._writer.add_action

    def save_example(self, request_id: str, payload: bytes) -> None:
        """Save a stretch as the hub requests; another thread calls this. The result goes to `answer`."""
        if self._examples is None:
            self._answer(request_id, ExampleResult(error="the configuration has no section examples"))
            return
        try:
            request = parse_example_request(payload)
        except EventError as error:
            self._answer(request_id, ExampleResult(error=str(error)))
            return
        self._examples.add(request_id, request)

    @property
    def counters(self) -> dict[str, int]:
        """The counters of the stream's status."""
        return {} if self._writer is None else self._writer.counters

    def connect(self, source: Source) -> None:
        """Begin with a source that was opened. A source without packets gives small pictures instead."""
        self._ring.end()
        source.set_packet_sink(self._ring)
        self.takes_pictures = not self._ring.has_packets

    def add_frame(self, frame: Frame) -> None:
        """Add the next fresh frame of the source."""
        if self.takes_pictures:
            self._pictures.add(frame)
        else:
            self._ring.add_frame(frame, time.time_ns())

    def disconnect(self) -> None:
        """End with a source that is closed."""
        self._ring.end()

    def close(self, deadline_s: float) -> None:
        """Complete the film that is written, if that takes no longer than `deadline_s`."""
        end_s = time.monotonic() + deadline_s
        if self._writer is not None and self._retention is not None and self._writer.close(deadline_s):
            self._retention.close()
        if self._examples is not None:
            self._examples.close(max(0.0, end_s - time.monotonic()))


def _ring_limits(config: ClipsConfig | None, examples: ExamplesConfig | None) -> dict[str, int]:
    """Return the limits of a ring that serves both kinds of films."""
    keep_ns = needed_ns = max_bytes = 0
    if config is not None:
        keep_ns = round((config.before_s + DECISION_S) * NS)
        needed_ns = round((config.before_s + USUAL_DECISION_S) * NS)
        max_bytes = config.before_size
    if examples is not None:
        keep_ns = max(keep_ns, round((examples.last_s + USUAL_DECISION_S) * NS))
        max_bytes = max(max_bytes, examples.last_size)
    return {"keep_ns": keep_ns, "max_bytes": max_bytes, "needed_ns": needed_ns}


class _PictureFeed:
    """Keep ten small JPEG pictures a second of a source without packets; the writer encodes them for a film."""

    def __init__(self, ring: PacketRing, picture: PictureArea) -> None:
        self._ring, self._picture = ring, picture
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

        height, width = preview_size(*frame.size_of(self._picture))
        if self._rgb is None or self._rgb.shape != (height, width, 3):
            self._rgb = np.empty((height, width, 3), np.uint8)
        bgr = cv2.cvtColor(frame.to_rgb(height, width, out=self._rgb, area=self._picture), cv2.COLOR_RGB2BGR)
        ok, jpeg = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, PICTURE_QUALITY])
        if ok:
            self._ring.push_picture(jpeg.tobytes(), frame.pts_ns, time.time_ns())
