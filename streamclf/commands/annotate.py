"""Write a classified file as a film: its own frames, with the predictions up to each frame drawn on them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from engines.arrays import U8
from streamclf.classifier.offline import FileResult, WindowResult, file_stream, ranked
from streamclf.errors import SourceError
from streamclf.render.film_writer import FilmWriter, GifWriter, SoundError
from streamclf.render.overlay import OverlayState, draw
from streamclf.sources import Frame, Source, open_source
from streamclf.sources.film_sound import FilmSound
from streamclf.units import NS
from streamclf.windows.chunks import FrameHook

SUFFIXES = (".mp4", ".gif")
MAX_SIDE = {".mp4": 1280, ".gif": 480}
"""Longest side in pixels; a larger film would not show the predictions better."""
GIF_FPS = 10
HISTORY = 200


def write_annotated(
    source: Path, output: Path, result: FileResult, labels: Sequence[str], *, on_frame: FrameHook | None = None
) -> str | None:
    """Write the file `output`, .mp4 or .gif, whole or not at all. Raises `SourceError`.

    An .mp4 has the film's sound, copied or as AAC. Returns what is missing of it, in one line; None if nothing is.
    `on_frame` is called with each frame of the source.
    """
    kind = output.suffix.lower()
    partial = output.with_name(f".{output.stem}-{os.getpid()}{kind}")
    try:
        if kind == ".gif":
            with GifWriter(partial) as film, open_source(file_stream(source)) as frames:
                for time_s, image in _annotated_frames(frames, source.stem, result, labels, kind, on_frame):
                    film.write(image, time_s)
            partial.replace(output)
            return None
        for may_copy_sound in (True, False):
            try:
                note = _write_film(source, partial, result, labels, on_frame, may_copy_sound=may_copy_sound)
            except SoundError:
                continue
            break
        else:
            note = _write_film(source, partial, result, labels, on_frame, may_copy_sound=None)
        partial.replace(output)
    except OSError as error:
        raise SourceError(f"{output}: cannot be written ({error.strerror}); give a writable path") from error
    finally:
        partial.unlink(missing_ok=True)
    return None if note is None else f"{output}: {note}"


def _write_film(
    source: Path,
    partial: Path,
    result: FileResult,
    labels: Sequence[str],
    on_frame: FrameHook | None,
    *,
    may_copy_sound: bool | None,
) -> str | None:
    """Write the film with its sound; `may_copy_sound` is None to leave it out. Return what is missing of it."""
    with FilmSound(source) as sound, open_source(file_stream(source)) as frames:
        track = None if may_copy_sound is None else sound.stream
        at_s = 0.0
        with FilmWriter(partial, fps=frames.info.fps or 25.0, sound=track, may_copy_sound=bool(may_copy_sound)) as film:
            for time_s, image in _annotated_frames(frames, source.stem, result, labels, ".mp4", on_frame):
                film.write(image, time_s)
                at_s = time_s
                if track is not None:
                    for packet, media_ns in sound.until(round(time_s * NS), frames.time_offset_ns):
                        film.add_sound(packet, media_ns)
            if track is not None:
                for packet, media_ns in sound.until(None, frames.time_offset_ns):
                    film.add_sound(packet, media_ns)
    if track is None:
        return None if sound.stream is None else "its sound is left out, because MP4 cannot hold it"
    if sound.fault is not None:
        return f"its sound ends at about {at_s:.1f} s, because {sound.fault}"
    undecodable = 0 if film.sound_track is None else film.sound_track.undecodable
    return f"{undecodable} packets of its sound could not be decoded" if undecodable else None


def _annotated_frames(
    frames: Source, name: str, result: FileResult, labels: Sequence[str], kind: str, on_frame: FrameHook | None
) -> Iterator[tuple[float, U8]]:
    """Yield (seconds, (H, W, 3) uint8 BGR) for each frame of the film; a GIF has fewer.

    A picture that lasts long is drawn again where the prediction changes, and where the film ends.
    """
    windows = result.windows
    known = len(windows) if result.short_clip else 0  # the only window lasts as long as the clip
    due_s = 0.0
    shown: WindowResult | None = None
    left_out: tuple[float, Frame] | None = None
    for frame in frames:
        if on_frame is not None:
            on_frame(frames, frame)
        time_s = frame.pts_ns / NS
        while known < len(windows) and windows[known].end_s <= time_s:
            known += 1
        newest = windows[known - 1] if known else None
        is_same = newest is shown or (newest and shown and newest.probabilities is shown.probabilities)
        if (frame.repeated and is_same) or (kind == ".gif" and time_s < due_s):
            left_out = (time_s, frame)
            continue
        due_s = max(due_s + 1 / GIF_FPS, time_s)
        shown, left_out = newest, None
        yield time_s, _drawn(frame, name, windows[max(0, known - HISTORY) : known], labels, kind)
    if left_out is not None and left_out[1].repeated:
        yield left_out[0], _drawn(left_out[1], name, windows[max(0, known - HISTORY) : known], labels, kind)


def _drawn(frame: Frame, name: str, windows: Sequence[WindowResult], labels: Sequence[str], kind: str) -> U8:
    """Draw the newest of the windows on a frame -> (H, W, 3) uint8 BGR."""
    state = OverlayState(
        stream=name,
        top=ranked(windows[-1], labels) if windows else (),
        history=[ranked(window, labels)[0] for window in windows],
    )
    scale = min(1.0, MAX_SIDE[kind] / max(frame.height, frame.width))
    rgb = frame.to_rgb(max(1, round(frame.height * scale)), max(1, round(frame.width * scale)))
    return draw(np.ascontiguousarray(rgb[..., ::-1]), state)
