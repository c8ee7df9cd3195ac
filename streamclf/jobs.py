"""What the supervisor tells each child process, as one line of JSON on its standard input.

Never on the command line: a source's URL may carry a password, and `ps` shows arguments to everybody.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from streamclf.config import EngineConfig, StreamConfig
from streamclf.rules import StreamActions


class _Job(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    link: str
    """ZeroMQ endpoint on which the hub takes events from producers."""


class CaptureJob(_Job):
    """One stream: read `source`, sample it, write tokens of (t, H, W, 3) uint8 RGB into the ring."""

    stream: str
    source: StreamConfig
    fps: float
    frames_per_token: int
    height: int
    width: int
    resize: Literal["stretch", "crop", "letterbox"]
    ring_fd: int
    wake_fd: int
    """Write end of a non-blocking pipe: one byte after each committed token."""
    progress_fd: int | None = None
    """Read end of a pipe that says how far the ring has been read; None where the stream waits for nobody."""


class StreamFeed(BaseModel):
    """The classifier's end of one capture process."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    stream: str
    ring_fd: int
    wake_fd: int
    """Read end of the capture's pipe."""
    progress_fd: int | None = None
    """Write end of the pipe that tells capture how far the ring has been read."""
    hop: int


class ClassifierJob(_Job):
    """One engine and the streams that it serves."""

    bundle: Path
    engine: EngineConfig
    feeds: tuple[StreamFeed, ...]
    resumed: bool = False
    """Another classifier read these rings before: what they hold may have been classified already."""
    actions: dict[str, StreamActions]
    """By stream."""


class HubJob(_Job):
    """The journal and the sockets of the outside world."""

    events: str
    replay: str
    journal: Path
    keep_s: float
    keep_bytes: int | None = None
    keys: Path | None = None
    """The service's secret key file; together with `allow`, the directory of the public keys that may connect."""
    allow: Path | None = None
    high_water: int = 2000
    """Messages kept for one slow subscriber."""
