"""Make events of clips, and the pictures that they name."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np

from streamclf.events.types import Clip

CLIP_STEM: Final = "door/2026-01-31/120000-000-wave"
EPOCH: Final = "9f" * 16
NOW: Final = datetime(2026, 1, 31, 12, 0, 0, tzinfo=timezone.utc)


def clip_event(offset: int = 9, **more: Any) -> Clip:
    """Return the event of a clip of the stream `door` with both pictures."""
    return Clip(
        stream="door", epoch=EPOCH, offset=offset, previous=0, time=NOW, label="wave", action=7, actions=(7,),
        began=NOW, start_s=1.0, end_s=9.0, file=f"{CLIP_STEM}.mp4", bytes=1000, probability=0.9,
        **{"still": f"{CLIP_STEM}.jpg", "drawn": f"{CLIP_STEM}.drawn.jpg"} | more,
    )  # fmt: skip


def store_picture(folder: Path, name: str = f"{CLIP_STEM}.drawn.jpg", *, side: int = 64, light: int = 90) -> bytes:
    """Store a grey picture, and return its content."""
    jpeg = bytes(cv2.imencode(".jpg", np.full((side, side, 3), light, np.uint8))[1])
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(jpeg)
    return jpeg
