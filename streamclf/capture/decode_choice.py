"""Choose while a stream is read whether its video is decoded exactly or fast."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

from streamclf.capture.preview import preview_size
from streamclf.capture.view import View
from streamclf.config.picture_area import PictureArea
from streamclf.config.source_settings import DecodeMode
from streamclf.errors import SourceError
from streamclf.sources import Frame, Source
from streamclf.sources.decoding import EXACT, WantedDecoding, fast_options, resolve, shrink_factor, wanted_decoding
from streamclf.sources.picture_part import RegionTooSmallError
from streamclf.units import NS

log = logging.getLogger(__name__)

INTERVAL_NS = NS // 4
"""A new choice takes effect at the next key frame, so it need not be made with each frame."""


class DecodeChoice:
    """Tell the source how to decode: by the configuration, the views' sizes, and who watches."""

    def __init__(
        self,
        mode: DecodeMode,
        stream: str,
        picture: PictureArea,
        views: Iterable[View],
        is_watched: Callable[[], bool],
    ) -> None:
        """`picture` is what people see of the stream; `is_watched` returns whether something needs such pictures."""
        self.mode = mode
        self._stream, self._picture = stream, picture
        self._views, self._is_watched = views, is_watched
        self._wanted = EXACT
        self._due_ns = 0
        self._has_logged = False

    def connect(self, source: Source) -> None:
        """Begin with a source that was opened. The size of its picture is not known: the last choice holds."""
        self._due_ns = 0
        if self.mode != "auto":
            self._wanted = WantedDecoding("fast") if self.mode == "fast" else EXACT
        source.set_decoding(self._wanted)

    def update(self, frame: Frame, source: Source) -> None:
        """Choose anew if the last choice is old, with the latest frame of `source`."""
        if frame.captured_ns < self._due_ns or frame.image is None:
            return
        self._due_ns = frame.captured_ns + INTERVAL_NS
        codec = source.info.codec
        if self.mode == "fast" and fast_options(codec) is None:
            self._log_exact(codec)
        sizes = [(view.job.height, view.job.width) for view in self._views]
        shown = preview_size(*frame.size_of(self._picture))
        is_larger = all(shown[0] > height or shown[1] > width for height, width in sizes)
        is_watched = is_larger and self._is_watched()
        shrink = self._shrink(frame)
        decoding = resolve(self.mode, codec=codec, shrink=shrink, is_watched=is_watched)
        areas = (view.job.area for view in self._views)
        wanted = wanted_decoding(decoding, 1.0 if is_watched else shrink, areas)
        if wanted != self._wanted:
            self._wanted = wanted
            source.set_decoding(wanted)

    def _shrink(self, frame: Frame) -> float:
        """Return the least factor by which a view shrinks the picture; a view that shows nothing does not count."""
        factors = []
        for view in self._views:
            job = view.job
            try:
                factors.append(shrink_factor(frame.size_of(job.area), (job.height, job.width), job.resize))
            except (RegionTooSmallError, SourceError):
                continue
        return min(factors, default=0.0)

    def _log_exact(self, codec: str) -> None:
        if not self._has_logged:
            self._has_logged = True
            log.info("stream %s: decode: fast changes nothing: %s is always decoded exactly", self._stream, codec)
