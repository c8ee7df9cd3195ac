"""Make films with sound: a white flash and a beep begin at the same moment; and find both in a film."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

SAMPLE_RATE = 48_000
FPS = Fraction(25)
SIZE = (64, 48)


def write_film_with_sound(
    path: Path,
    *,
    codec: str,
    seconds: float = 3.0,
    event_s: float = 1.0,
    sound_from_s: float = 0.0,
    fps: Fraction = FPS,
) -> Path:
    """Write a dark, silent film. From `event_s` on it is white, and a tone of 1 kHz sounds.

    The sound track begins at `sound_from_s`.
    """
    frames, samples = round(seconds * fps), round(seconds * SAMPLE_RATE)
    at = np.arange(samples) / SAMPLE_RATE
    tone = (0.5 * np.sin(2 * np.pi * 1000 * at) * (at >= event_s) * 32767).astype(np.int16)
    with av.open(str(path), "w") as container:
        video: Any = container.add_stream("libx264", rate=fps)
        video.width, video.height, video.pix_fmt = *SIZE, "yuv420p"
        video.options = {"preset": "ultrafast"}
        name = {"mp3": "libmp3lame"}.get(codec, codec)
        audio: Any = container.add_stream(name, rate=SAMPLE_RATE, layout="mono")
        for number in range(frames):
            light = 255 if number / fps >= event_s else 0
            frame = av.VideoFrame.from_ndarray(np.full((SIZE[1], SIZE[0], 3), light, np.uint8), "rgb24")
            frame.pts, frame.time_base = number, 1 / fps
            container.mux(video.encode(frame))
            step = int(SAMPLE_RATE / fps)
            first = number * step
            if first / SAMPLE_RATE >= sound_from_s:
                sound = av.AudioFrame.from_ndarray(tone[None, first : first + step], "s16", "mono")
                sound.sample_rate, sound.pts, sound.time_base = SAMPLE_RATE, first, Fraction(1, SAMPLE_RATE)
                container.mux(audio.encode(sound))
        container.mux(video.encode(None))
        container.mux(audio.encode(None))
    return path


def flash_and_beep_s(path: Path) -> tuple[float, float]:
    """Return the times at which a film of `write_film_with_sound` becomes white, and at which its tone begins."""
    flash_s = beep_s = -1.0
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            # the top of an annotated frame is darkened, and text is drawn near its left edge
            image = frame.to_ndarray(format="gray")
            if image[image.shape[0] // 3 : image.shape[0] // 2, -image.shape[1] // 4 :].mean() > 100:
                flash_s = float(frame.time or 0)
                break
    with av.open(str(path)) as container:
        for sound in container.decode(audio=0):
            loud = np.abs(sound.to_ndarray().astype(np.float64)).max(axis=0)
            loud = loud / (32767 if loud.max() > 2 else 1)
            if (loud > 0.1).any():
                beep_s = float(sound.time or 0) + float(np.argmax(loud > 0.1)) / sound.sample_rate
                break
    assert flash_s >= 0
    assert beep_s >= 0
    return flash_s, beep_s
