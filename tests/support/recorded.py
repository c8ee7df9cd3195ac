"""Make what a service records for the page: events in a hub's journal, and films with pictures in a folder."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import av
import cv2
from support.clips import write_clip

from streamclf.events.drafts import Draft


def write_film(folder: Path, path: str, *, frames: int = 25, size: tuple[int, int] = (160, 96)) -> int:
    """Write an H.264 film with a plain still at `path` (STREAM/DAY/NAME.mp4) in the folder; return its bytes."""
    film = folder / path
    film.parent.mkdir(parents=True, exist_ok=True)
    write_clip(film, frames=frames, width=size[0], height=size[1])
    with av.open(str(film)) as container:
        write_jpeg(film.with_suffix(".jpg"), next(container.decode(video=0)))
    return film.stat().st_size


def write_jpeg(path: Path, frame: Any) -> None:
    """Write a frame of PyAV as JPEG."""
    written, data = cv2.imencode(".jpg", frame.to_ndarray(format="bgr24"))
    assert written
    path.write_bytes(data.tobytes())


def action_draft(stream: str, label: str, phase: str, *, started_s: float, at_s: float, peak: float = 0.9) -> Draft:
    """Make an event of an action."""
    body = {
        "label": label, "phase": phase, "started_s": started_s, "at_s": at_s, "probability": peak, "peak": peak,
        "reason": "below" if phase == "end" else None,
    }  # fmt: skip
    return Draft("action", stream, body)


def clip_draft(stream: str, label: str, path: str, start: int, epoch: str, **more: Any) -> Draft:
    """Make the event of a film; `start` is the offset of its action's start in the journal `epoch`."""
    began = datetime.now(timezone.utc) - timedelta(seconds=2)
    body = {
        "label": label, "action": start, "actions": [start], "part": 1, "last": True, "began": began.isoformat(),
        "start_s": 0.0, "end_s": 1.0, "bytes": 1000, "codec": "h264", "file": path,
        "still": path.replace(".mp4", ".jpg"), "probability": 0.9, "action_epoch": epoch, **more,
    }  # fmt: skip
    return Draft("clip", stream, body)
