"""Make examples without films, for tests of the figures of teaching."""

from __future__ import annotations

import numpy as np

from streamclf.teach.clip_features import ClipFeatures
from streamclf.teach.examples import Example, ExampleRow
from streamclf.teach.held_out import TeachingData


def make_items(data: TeachingData) -> list[Example]:
    """Make an example for each clip of `data`, with windows of one second."""
    items = []
    for clip in np.unique(data.clips):
        own = data.clips == clip
        count = int(own.sum())
        row = ExampleRow(
            name=f"film{clip}.mp4",
            label=data.names[data.labels[own][0]],
            group=str(data.groups[own][0]),
            sha256="0" * 64,
            windows=count,
            chunks=count,
        )
        content = ClipFeatures(
            features=np.zeros((count, 1), np.float32),
            windows=np.arange(count, dtype=np.int32)[:, None],
            times=np.stack([np.arange(count), np.arange(count) + 1.0], axis=1),
            thumbs=np.zeros((count, 8, 8), np.uint8),
            stills=[b""] * count,
        )
        items.append(Example(row=row, content=content))
    return items
