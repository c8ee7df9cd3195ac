"""Check the rules of films on random sequences of packets and actions, with films that only record their packets."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from hypothesis import given, settings
from hypothesis import strategies as st
from support.film_check import note

from streamclf.clips import recording
from streamclf.clips.film_info import FilmInfo
from streamclf.clips.recording import Recording
from streamclf.clips.ring import PacketEntry, PacketRing
from streamclf.config.clips import ClipsConfig
from streamclf.errors import ClipError
from streamclf.events.views import ActionKey
from streamclf.units import NS

STEP_NS = NS // 10


@dataclass
class FakeFilm:
    """Stand for `FilmFile`: remember the packets."""

    path: Path
    first: PacketEntry
    title: str
    description: str
    entries: list[PacketEntry] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.format = self.first.format
        self.first_ns = self.last_ns = self.first.at_ns
        self.fileno = 0

    def write(self, entry: PacketEntry) -> None:
        self.entries.append(entry)
        self.last_ns = max(self.last_ns, entry.at_ns)

    def close(self) -> None:
        pass

    abandon = close


events = st.one_of(
    st.tuples(st.just("packets"), st.integers(1, 40)),
    st.tuples(st.just("start"), st.integers(0, 2)),
    st.tuples(st.just("update"), st.integers(0, 2)),
    st.tuples(st.just("end"), st.integers(0, 2)),
    st.tuples(st.just("pause"), st.integers(1, 120)),
    st.tuples(st.just("connect"), st.just(0)),
    # A step back of up to two seconds counts as reordering: such pictures may come before the film.
    st.tuples(st.just("jump"), st.integers(-100, -4) | st.integers(1, 100)),
)


@settings(max_examples=150, deadline=None)
@given(
    sequence=st.lists(events, min_size=5, max_size=60),
    gop=st.integers(1, 40),
    ring_bytes=st.sampled_from([3000, 20_000, 10**6]),
    before_s=st.integers(0, 3),
)
def test_films_never_repeat_or_skip_a_picture_and_always_end(
    tmp_path_factory: Any, sequence: list[tuple[str, int]], gop: int, ring_bytes: int, before_s: int
) -> None:
    films: list[FakeFilm] = []
    done: list[tuple[FilmInfo, FakeFilm]] = []

    def make(path: Path, first: PacketEntry, *, title: str, description: str) -> FakeFilm:
        films.append(FakeFilm(path, first, title, description))
        return films[-1]

    folder = tmp_path_factory.mktemp("clips")
    ring = PacketRing(keep_ns=(before_s + 10) * NS, max_bytes=ring_bytes)
    config = ClipsConfig(folder=folder, before_s=before_s, after_s=1, longest_s=6)
    take = recording.Recording("door", config, ring, lambda path, info, size: done.append((info, films[-1])))
    running: dict[int, float] = {}
    number, media_ns, now_s = 0, 100 * NS, 0.0
    ring.begin("h264", None)
    with (
        patch.object(recording, "FilmFile", make),
        patch.object(recording, "complete_film", lambda part, path, info: 10),
        patch.object(Recording, "_free_name", _any_name),
    ):
        for kind, value in sequence:
            if kind == "packets":
                for _ in range(value):
                    key = number % gop == 0
                    ring.push(b"\0\0\0\1\x65" + bytes(90), number * STEP_NS, key=key)
                    ring.add_frame(SimpleNamespace(stamp_ns=number * STEP_NS, pts_ns=media_ns, repeated=False), 1)  # type: ignore[arg-type]
                    number, media_ns, now_s = number + 1, media_ns + STEP_NS, now_s + 0.1
            elif kind == "pause":
                now_s += value / 4
            elif kind == "connect":
                ring.end()
                ring.begin("h264", None)
                number += gop - number % gop
            elif kind == "jump":
                media_ns = max(0, media_ns + value * NS)
            else:
                if kind == "start":
                    running[value] = media_ns / NS - 0.5
                if value in running:
                    started_s = running.pop(value) if kind == "end" else running[value]
                    take.apply(note(kind, media_ns / NS, started_s=started_s, label=f"label {value}"), now_s)
            _step(take, now_s)
        for _ in range(40):  # nothing more comes
            now_s += 1
            _step(take, now_s)
        assert not take.is_active
    assert len(done) <= len(films)
    for film in films:
        numbers = [entry.number for entry in film.entries]
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
        assert film.entries[0].key
        assert len({id(entry.format) for entry in film.entries}) == 1
    assert all(info.actions for info, _ in done)
    for (before, cut), (after, following) in pairwise(done):
        if after.part > 1 and cut.format is following.format and recording.SLOW_NOTE not in (before.note or ""):
            assert following.entries[0].number == cut.entries[-1].number + 1, "no gap between two parts"
            assert (after.part, before.last) == (before.part + 1, False)


def _step(take: Recording, now_s: float) -> None:
    try:
        take.step(now_s)
    except ClipError:
        take.abandon(now_s)


def _any_name(self: Recording, began: Any, action: ActionKey) -> Any:
    return recording.clip_name("door", began, action.label), Path("/nonexistent/film.mp4")
