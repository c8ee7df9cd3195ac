"""Make actions for a film of bar codes, and read the films that were saved of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import orjson
from support.clips import read_number

from streamclf.clips.film_info import FilmInfo, parse_film_info
from streamclf.clips.film_plan import ActionNote

EPOCH = "e" * 32


def note(
    phase: str,
    at_s: float,
    *,
    started_s: float = 4.0,
    label: str = "wave",
    start: int | None = 7,
    p: float = 0.9,
    region: str | None = None,
    model_name: str | None = None,
) -> ActionNote:
    """Make the event of an action as the hub sends it."""
    return ActionNote(
        label=label, phase=phase, started_s=started_s, at_s=at_s, probability=p, peak=p, epoch=EPOCH, start=start,
        region=region, model_name=model_name,
    )  # fmt: skip


@dataclass(frozen=True)
class SavedFilm:
    """A film as a player sees it: the bar code and the time of each picture, and the metadata."""

    numbers: list[int]
    times_s: list[float]
    info: FilmInfo
    title: str
    tag: str
    data: bytes


def read_film(path: Path) -> SavedFilm:
    """Decode a saved film."""
    with av.open(str(path)) as container:
        video: Any = container.streams.video[0]
        frames = list(container.decode(video))
        numbers = [read_number(frame.to_ndarray(format="rgb24")) for frame in frames]
        times_s = [float(frame.pts * frame.time_base) for frame in frames if frame.pts is not None]
        return SavedFilm(
            numbers=numbers,
            times_s=times_s,
            info=parse_film_info(container.metadata["comment"]),
            title=container.metadata["title"],
            tag=video.codec_context.codec_tag,
            data=path.read_bytes(),
        )


def check_whole(film: SavedFilm, *, fps: int, first_s: float = 0.0, slack_s: float = 0.002) -> None:
    """Check that no picture is missing or twice, and that each has the time that it has in the source.

    Picture n of the source has the media time `first_s` + n / `fps`.
    """
    first = film.numbers[0]
    assert film.numbers == list(range(first, first + len(film.numbers)))
    assert film.times_s[0] == 0
    for number, time_s in zip(film.numbers, film.times_s, strict=True):
        assert abs(film.info.start_s + time_s - first_s - number / fps) < slack_s, (number, time_s)


def event_json(phase: str, at_s: float, *, started_s: float = 4.0, label: str = "wave", p: float = 0.9) -> bytes:
    """Return the JSON of an action's event."""
    return orjson.dumps(
        {"type": "action", "label": label, "phase": phase, "started_s": started_s, "at_s": at_s, "probability": p,
         "peak": p, "epoch": EPOCH}
    )  # fmt: skip
