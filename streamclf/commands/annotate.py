"""Write a classified file as a film: its own frames, with the predictions up to each frame drawn on them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from engines.arrays import U8
from streamclf.classifier.offline import WindowResult, file_stream, ranked
from streamclf.render.film_writer import FilmWriter, GifWriter
from streamclf.render.overlay import OverlayState, draw
from streamclf.sources import open_source

SUFFIXES = (".mp4", ".gif")
MAX_SIDE = {".mp4": 1280, ".gif": 480}
"""Longest side in pixels; a larger film would not show the predictions better."""
GIF_FPS = 10
HISTORY = 200


def write_annotated(source: Path, output: Path, results: Sequence[WindowResult], labels: Sequence[str]) -> None:
    """Write the file `output`, .mp4 or .gif, whole or not at all. Raises `SourceError`."""
    kind = output.suffix.lower()
    partial = output.with_name(f".{output.stem}-{os.getpid()}{kind}")
    try:
        with GifWriter(partial) if kind == ".gif" else FilmWriter(partial) as film:
            for time_s, image in _annotated_frames(source, results, labels, kind):
                film.write(image, time_s)
        partial.replace(output)
    finally:
        partial.unlink(missing_ok=True)


def _annotated_frames(
    source: Path, results: Sequence[WindowResult], labels: Sequence[str], kind: str
) -> Iterator[tuple[float, U8]]:
    """Yield (seconds, (H, W, 3) uint8 BGR) for each frame of the film; a GIF has fewer."""
    known = 0
    due_s = 0.0
    with open_source(file_stream(source)) as frames:
        for frame in frames:
            time_s = frame.pts_ns / 1e9
            if kind == ".gif" and time_s < due_s:
                continue
            due_s += 1 / GIF_FPS
            while known < len(results) and results[known].end_s <= time_s:
                known += 1
            scale = min(1.0, MAX_SIDE[kind] / max(frame.height, frame.width))
            height, width = max(1, round(frame.height * scale)), max(1, round(frame.width * scale))
            rgb = frame.to_rgb(height, width)
            yield time_s, draw(np.ascontiguousarray(rgb[..., ::-1]), _state(source.stem, results[:known], labels))


def _state(name: str, results: Sequence[WindowResult], labels: Sequence[str]) -> OverlayState:
    return OverlayState(
        stream=name,
        top=ranked(results[-1], labels) if results else (),
        history=[ranked(result, labels)[0] for result in results[-HISTORY:]],
    )
