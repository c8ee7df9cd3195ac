"""Write a classified file as a film: its own frames, with the predictions up to each frame drawn on them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from engines.activation import present_labels
from engines.arrays import U8
from engines.bundle import ModelSpec
from streamclf.classifier.explanation import Explanation, explanation_at
from streamclf.classifier.offline import FileResult, file_stream, ranked
from streamclf.classifier.window_classifier import WindowResult
from streamclf.config.picture_area import WHOLE, PictureArea
from streamclf.config.picture_shapes import EVERYTHING
from streamclf.errors import SourceError
from streamclf.render.film_writer import FilmWriter, GifWriter, SoundError
from streamclf.render.heat import draw_heat, heat_in_region
from streamclf.render.overlay import OverlayState, draw
from streamclf.render.overlay_views import draw_rectangles
from streamclf.render.palette import label_bgr
from streamclf.sources import Frame, Resize, Source, open_source
from streamclf.sources.film_sound import FilmSound
from streamclf.units import NS
from streamclf.windows.chunks import FrameHook

SUFFIXES = (".mp4", ".gif")
MAX_SIDE = {".mp4": 1280, ".gif": 480}
"""Longest side in pixels; a larger film would not show the predictions better."""
GIF_FPS = 10
HISTORY = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class DrawnHeat:
    """Heat to draw on the frames of explained windows. `picture` is the model's (height, width)."""

    explanations: Sequence[Explanation]
    picture: tuple[int, int]
    resize: Resize


def write_annotated(
    source: Path,
    output: Path,
    result: FileResult,
    spec: ModelSpec,
    *,
    heat: DrawnHeat | None = None,
    on_frame: FrameHook | None = None,
    area: PictureArea = WHOLE,
) -> str | None:
    """Write the file `output`, .mp4 or .gif, whole or not at all. Raises `SourceError`.

    An .mp4 has the film's sound, copied or as AAC. Returns what is missing of it, in one line; None if nothing is.
    `on_frame` is called with each frame of the source. `area` is the part of the picture that was classified: the film
    shows the whole picture, rotated, mirrored and masked, with a rectangle around a region.
    """
    drawing = _Drawing(source.stem, result, spec, heat, on_frame, area)
    kind = output.suffix.lower()
    partial = output.with_name(f".{output.stem}-{os.getpid()}{kind}")
    try:
        if kind == ".gif":
            with GifWriter(partial) as film, open_source(file_stream(source)) as frames:
                for time_s, image in drawing.frames(frames, kind):
                    film.write(image, time_s)
            partial.replace(output)
            return None
        for may_copy_sound in (True, False):
            try:
                note = _write_film(source, partial, drawing, may_copy_sound=may_copy_sound)
            except SoundError:
                continue
            break
        else:
            note = _write_film(source, partial, drawing, may_copy_sound=None)
        partial.replace(output)
    except OSError as error:
        raise SourceError(f"{output}: cannot be written ({error.strerror}); give a writable path") from error
    finally:
        partial.unlink(missing_ok=True)
    return None if note is None else f"{output}: {note}"


def _write_film(source: Path, partial: Path, drawing: _Drawing, *, may_copy_sound: bool | None) -> str | None:
    """Write the film with its sound; `may_copy_sound` is None to leave it out. Return what is missing of it."""
    with FilmSound(source) as sound, open_source(file_stream(source)) as frames:
        track = None if may_copy_sound is None else sound.stream
        at_s = 0.0
        with FilmWriter(partial, fps=frames.info.fps or 25.0, sound=track, may_copy_sound=bool(may_copy_sound)) as film:
            for time_s, image in drawing.frames(frames, ".mp4"):
                film.write(image, time_s)
                at_s = time_s
                if track is not None:
                    for packet, media_ns in sound.until(round(time_s * NS), frames.time_offset_ns):
                        film.add_sound(packet, media_ns)
            if track is not None:
                for packet, media_ns in sound.until(None, frames.time_offset_ns):
                    film.add_sound(packet, media_ns)
    if track is None and sound.stream is not None:
        return "its sound is left out, because MP4 cannot hold it"
    if track is None:
        return None if sound.fault is None else f"its sound is left out, because {sound.fault}"
    if sound.fault is not None:
        return f"its sound ends at about {at_s:.1f} s, because {sound.fault}"
    undecodable = 0 if film.sound_track is None else film.sound_track.undecodable
    return f"{undecodable} packets of its sound could not be decoded" if undecodable else None


class _Drawing:
    """Draw the predictions, and the heat, on the frames of a film."""

    def __init__(
        self,
        name: str,
        result: FileResult,
        spec: ModelSpec,
        heat: DrawnHeat | None,
        on_frame: FrameHook | None,
        area: PictureArea,
    ) -> None:
        self._area, self._picture = area, area.without_region
        self._name, self._result, self._spec, self._heat, self._on_frame = name, result, spec, heat, on_frame

    def frames(self, frames: Source, kind: str) -> Iterator[tuple[float, U8]]:
        """Yield (seconds, (H, W, 3) uint8 BGR) for each frame of the film; a GIF has fewer.

        A picture that lasts long is drawn again where the prediction or the heat changes, and where the film ends.
        """
        windows = self._result.windows
        known = len(windows) if self._result.short_clip else 0  # the only window lasts as long as the clip
        due_s = 0.0
        shown: tuple[WindowResult | None, _Hot | None] = (None, None)
        left_out: tuple[float, Frame] | None = None
        for frame in frames:
            if self._on_frame is not None:
                self._on_frame(frames, frame)
            time_s = frame.pts_ns / NS
            while known < len(windows) and windows[known].end_s <= time_s:
                known += 1
            newest = windows[known - 1] if known else None
            before = shown[0]
            is_same = newest is before or (newest and before and newest.probabilities is before.probabilities)
            heat = self._heat_at(time_s)
            if (frame.repeated and is_same and heat == shown[1]) or (kind == ".gif" and time_s < due_s):
                left_out = (time_s, frame)
                continue
            due_s = max(due_s + 1 / GIF_FPS, time_s)
            shown, left_out = (newest, heat), None
            yield time_s, self._drawn(frame, windows[max(0, known - HISTORY) : known], heat, kind)
        if left_out is not None and left_out[1].repeated:
            drawn = self._drawn(left_out[1], windows[max(0, known - HISTORY) : known], shown[1], kind)
            yield left_out[0], drawn

    def _heat_at(self, time_s: float) -> _Hot | None:
        explanation = None if self._heat is None else explanation_at(self._heat.explanations, time_s)
        return None if explanation is None else _Hot(explanation, explanation.step_at(time_s))

    def _drawn(self, frame: Frame, windows: Sequence[WindowResult], hot: _Hot | None, kind: str) -> U8:
        """Draw heat and the newest of the windows on a frame -> (H, W, 3) uint8 BGR."""
        labels = self._spec.labels
        state = OverlayState(
            stream=self._name,
            top=ranked(windows[-1], labels) if windows else (),
            present=self._present(windows[-1]) if windows else None,
            history=[ranked(window, labels)[0] for window in windows],
            note=None if hot is None else f"heat: {labels[hot.explanation.label]}",
        )
        height, width = frame.size_of(self._picture)
        scale = min(1.0, MAX_SIDE[kind] / max(height, width))
        size = max(1, round(height * scale)), max(1, round(width * scale))
        image = np.ascontiguousarray(frame.to_rgb(*size, area=self._picture)[..., ::-1])
        region = self._area.region or EVERYTHING
        if hot is not None and self._heat is not None:
            heat, part = hot.explanation.heat.maps[hot.step], frame.size_of(self._area)
            image = draw_heat(image, heat_in_region(heat, self._heat.picture, part, self._heat.resize, size, region))
        if self._area.region is not None:
            colour = {"": label_bgr(state.top[0][0])} if state.top else {}
            draw_rectangles(image, {"": region}, colour, max(0.75, min(size) / 400))
        return draw(image, state)

    def _present(self, window: WindowResult) -> list[tuple[str, float]] | None:
        """Return (label, probability) of independent labels that are present; None where labels are not independent."""
        if self._spec.activation == "softmax":
            return None
        found = present_labels(self._spec, window.probabilities)
        return [(self._spec.labels[index], float(window.probabilities[index])) for index in found]


class _Hot(NamedTuple):
    """The explanation that a frame shows, and which of its maps."""

    explanation: Explanation
    step: int

    def __eq__(self, other: object) -> bool:  # arrays have no truth value
        return isinstance(other, _Hot) and other.explanation is self.explanation and other.step == self.step

    def __hash__(self) -> int:
        return hash((id(self.explanation), self.step))
