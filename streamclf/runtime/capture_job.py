"""Define the messages of the supervisor to a capture process as plain dataclasses, so that it loads no pydantic.

pydantic and the models of the configuration take 20 MB, and there is one capture process for each stream.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from streamclf.config.picture_area import WHOLE, PictureArea
from streamclf.config.source_settings import DecodeMode, SourceSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewJob:
    """One view of a stream: sample it, and write chunks of (t, H, W, 3) uint8 RGB into the view's ring.

    In a `CaptureChange`, the descriptors come with the message, in the order of the four fields without those that are
    None; their numbers here have no meaning then.
    """

    view: str
    """Name of the view, unique in its stream."""
    region: str | None = None
    """Name of the region, for the rectangles in stills; None for the whole picture or a region without a name."""
    fps: float
    frames_per_chunk: int
    height: int
    width: int
    resize: Literal["stretch", "crop", "letterbox"]
    area: PictureArea = WHOLE
    """The part of each picture that the view shows."""
    ring_fd: int
    wake_fd: int
    """Write end of a non-blocking pipe: capture writes one byte after each committed chunk."""
    progress_fd: int | None = None
    """Read end of a pipe that reports how far the classifier has read; None where capture does not wait for it."""
    card_fd: int | None = None
    """Channel (`streamclf.windows.card_channel`) to the classifier, for chunks in a GPU's memory; None for none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptureJob:
    """The job of one stream: read and decode `source` once, for all views. Views change through `CaptureChange`.

    The first four fields are those of `streamclf.runtime.jobs.LinkedJob`.
    """

    liveness_fd: int | None = None
    liveness_row: int = 0
    memory_limit: int | None = None
    link: str
    stream: str
    source: SourceSettings
    picture: PictureArea = WHOLE
    """How people see the stream, in previews and stills: rotated, mirrored and masked, and without a region."""
    views: tuple[ViewJob, ...]
    clips: dict[str, Any] | None = None
    """Films of the stream's actions: the keys of `streamclf.config.clips.ClipsConfig`; None for none."""
    examples: dict[str, Any] | None = None
    """Stretches of the stream that are saved on request: keys of `streamclf.config.examples.ExamplesConfig`, or None
    for none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptureChange:
    """Changes for a running capture process. Keys that are not set change nothing."""

    descriptors: int = 0
    add: ViewJob | None = None
    remove: str | None = None
    """A view to end, before another one is added. A chunk that is not complete is dropped."""
    decode: DecodeMode | None = None
    """How exactly to decode from now on, or from the next key frame on."""
    update: dict[str, PictureArea] = field(default_factory=dict)
    """New areas by view. Each begins a new segment: no window shows two areas."""
