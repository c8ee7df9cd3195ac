"""Check the films that are made of real sources: which pictures they show, and when."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from support.clips import film, write_clip
from support.film_check import SavedFilm, check_whole, note, read_film
from support.rtsp_server import RtspServer

from streamclf.clips import recording as recording_module
from streamclf.clips.film_info import FilmInfo, Pictures, Point, parse_film_info
from streamclf.clips.film_plan import ActionNote, parse_action_note
from streamclf.clips.recording import Recording
from streamclf.clips.ring import PacketRing
from streamclf.config.clips import ClipsConfig
from streamclf.config.source import SourceConfig
from streamclf.errors import ClipError, EventError
from streamclf.sources import open_source
from streamclf.units import NS

FPS = 25
X265_REORDERED = {"x265-params": "log-level=none:pools=none:frame-threads=1:repeat-headers=1:open-gop=0:bframes=3"}
X265_OPEN = {"x265-params": "log-level=none:pools=none:frame-threads=1:repeat-headers=1:open-gop=1:bframes=3"}
LONG = 10**9


class Setup:
    """Read a source to its end, or for `frames`, and write its films as the writer's thread would."""

    def __init__(self, folder: Path, *, ring_bytes: int = LONG, keep_s: float = 100, **config: Any) -> None:
        self.config = ClipsConfig(folder=folder, **{"before_s": 1, "after_s": 1, **config})
        self.ring = PacketRing(keep_ns=round(keep_s * NS), max_bytes=ring_bytes)
        self.films: list[tuple[Path, FilmInfo, int]] = []
        self.recording = Recording("door", self.config, self.ring, lambda *film: self.films.append(film))

    def read(
        self,
        source: Mapping[str, Any],
        notes: Sequence[tuple[float, ActionNote]],
        *,
        until_s: float = 1e9,
        stalls_s: tuple[float, float] = (0, 0),
    ) -> list[SavedFilm]:
        """Apply each note when the picture at its media time has come; return the films.

        The disk takes nothing during `stalls_s`.
        """
        waiting = sorted(notes, key=lambda each: each[0])
        now_s = begin_s = 0.0
        with open_source(SourceConfig.model_validate(source)) as opened:
            opened.set_packet_sink(self.ring)
            for frame in opened:
                self.ring.add_frame(frame, 1_700_000_000 * NS + frame.pts_ns)
                begin_s = begin_s or frame.pts_ns / NS
                now_s = frame.pts_ns / NS
                while waiting and waiting[0][0] <= now_s:
                    self.recording.apply(waiting.pop(0)[1], now_s)
                if frame.index % 5 == 0 and not stalls_s[0] < now_s < stalls_s[1]:
                    self.recording.step(now_s)
                if now_s >= until_s:
                    break
        self.ring.end()
        self.recording.step(now_s)
        self.recording.finish(now_s)
        return [read_film(path) for path, _, _ in self.films]


def action(start_s: float, end_s: float, *, known_s: float = 0.6, **more: Any) -> list[tuple[float, ActionNote]]:
    """Make the events of an action: it is known `known_s` after it has started, and has an update each second."""
    key = {"started_s": start_s, **more}
    updates = [(at, note("update", at, **key)) for at in map(float, range(int(start_s) + 2, int(end_s) + 1))]
    start_at = start_s + known_s
    return [
        (start_at, note("start", start_at, **key)),
        *[(at, each) for at, each in updates if start_at < at < end_s],
        (end_s + 0.2, note("end", end_s, **key)),
    ]


@pytest.mark.parametrize(
    ("codec", "options"),
    [
        ("libx264", None),
        ("libx264", {"bf": "3", "b_strategy": "0", "x264-params": "threads=1"}),
        ("libx265", X265_REORDERED),
    ],
    ids=["h264", "h264 with B frames", "h265 with B frames"],
)
@pytest.mark.parametrize("suffix", [".mp4", ".ts"])
def test_a_film_of_a_file_shows_the_action_and_the_seconds_around_it(
    tmp_path: Path, codec: str, options: dict[str, str] | None, suffix: str
) -> None:
    size = {"width": 160, "height": 96}
    path = write_clip(tmp_path / f"a{suffix}", frames=175, gop=20, codec=codec, options=options, **size)
    (film,) = Setup(tmp_path / "clips").read({"url": str(path), "pace": "fast"}, action(4.0, 5.0))
    check_whole(film, fps=FPS)
    # The action starts at picture 100 and ends at 125; before_s and after_s are one second.
    assert film.numbers[0] == 60, "a key frame each 20: the last one that is at least a second before"
    assert 150 <= film.numbers[-1] <= (150 if options is None else 153), "B frames come after the picture that follows"
    assert (film.info.start_s, film.info.end_s) == pytest.approx((2.4, film.numbers[-1] / FPS), abs=1e-3)
    assert film.title == "door: wave"
    assert film.tag == ("avc1" if codec == "libx264" else "hvc1")
    assert film.data.index(b"moov") < film.data.index(b"mdat"), "a browser plays it before it has all of it"


@pytest.mark.parametrize(("codec", "demuxer"), [("libx264", "rtp"), ("libx265", "rtp"), ("libx264", "ffmpeg")])
def test_a_film_of_a_camera_shows_the_action_and_the_seconds_around_it(
    tmp_path: Path, codec: str, demuxer: str
) -> None:
    with RtspServer({"door": film(frames=250, gop=20, codec=codec)}) as server:
        server.fault("door", rate=10)
        source = {"url": server.url("door"), "demuxer": demuxer}
        setup = Setup(tmp_path / "clips")
        (saved,) = setup.read(source, action(4.0, 5.0), until_s=7)
    check_whole(saved, fps=FPS, first_s=saved.info.start_s - saved.numbers[0] / FPS)
    assert saved.info.end_s - saved.info.start_s == pytest.approx(2 + 1 + 10 / FPS, abs=10.1 / FPS)
    assert 2.2 <= saved.info.start_s <= 3.0
    assert saved.info.began.timestamp() == pytest.approx(1_700_000_000 + saved.info.start_s, abs=1e-3)


def test_overlapping_actions_share_a_film_that_ends_after_the_last(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", frames=250, gop=10)
    notes = [*action(3.0, 4.5), *action(4.0, 6.0, label="run", start=9, p=0.95)]
    (film,) = Setup(tmp_path / "clips").read({"url": str(path), "pace": "fast"}, notes)
    check_whole(film, fps=FPS)
    assert (film.numbers[0], film.numbers[-1]) == (50, 175)
    assert [(each.label, each.start, each.ended_s) for each in film.info.actions] == [("wave", 7, 4.5), ("run", 9, 6.0)]
    assert film.info.label == "wave"
    assert {point.label for point in film.info.points} == {"wave", "run"}


def test_equal_labels_of_two_views_at_once_are_two_actions_of_one_film(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", frames=250, gop=10)
    gate, hands = {"region": "gate"}, {"region": "gate", "model_name": "hands"}
    notes = [*action(3.0, 4.0, **gate), *action(3.0, 6.0, start=9, p=0.95, **hands), *action(3.0, 3.9, start=8)]
    (film,) = Setup(tmp_path / "clips").read({"url": str(path), "pace": "fast"}, notes)
    assert (film.numbers[0], film.numbers[-1]) == (50, 175), "it ends after the longest one"
    found = [(each.region, each.model_name, each.start, each.ended_s, each.peak) for each in film.info.actions]
    assert found == [("gate", None, 7, 4.0, 0.9), ("gate", "hands", 9, 6.0, 0.95), (None, None, 8, 3.9, 0.9)]
    assert film.title == "door: gate · wave"
    assert film.info.name.stem.endswith("-wave-gate")
    assert film.info.best is not None
    assert film.info.best.probability == 0.9, "of the view that names the film"
    body = film.info.event_body(size=1, pictures=Pictures())
    assert (body["region"], "model_name" in body, sorted(body["actions"])) == ("gate", False, [7, 8, 9])
    assert parse_film_info(film.info.to_json()) == film.info


def test_the_description_of_a_film_without_views_has_the_form_of_earlier_versions() -> None:
    info = parse_film_info(
        '{"name":{"day":"2026-01-02","stem":"030405-678-wave","stream":"door"},"began":"2026-01-02T03:04:05Z",'
        '"start_s":1.0,"end_s":3.0,"actions":[{"label":"wave","started_s":1.5,"start":7,"peak":0.9,"ended_s":2.0}],'
        '"epoch":"ab","points":[[1.6,"wave",0.9]]}'
    )
    assert info.points == (Point(1.6, "wave", 0.9),)
    assert '"points":[[1.6,"wave",0.9]]' in info.to_json()
    assert not {"region", "model_name"} & info.event_body(size=1, pictures=Pictures()).keys()


@pytest.mark.parametrize("name", ["a/b", "", 7, ["gate"], "x" * 65])
def test_events_with_impossible_views_are_refused(name: object) -> None:
    event = {
        "label": "wave", "phase": "start", "started_s": 1, "at_s": 1, "probability": 1, "peak": 1, "epoch": "a",
    }  # fmt: skip
    assert parse_action_note(1, json.dumps(event | {"region": "gate"}).encode()).region == "gate"
    for key in ("region", "model_name"):
        with pytest.raises(EventError):
            parse_action_note(1, json.dumps(event | {key: name}).encode())


def test_two_actions_apart_have_a_film_each(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", frames=300, gop=10)
    films = Setup(tmp_path / "clips").read({"url": str(path), "pace": "fast"}, action(2.0, 3.0) + action(7.0, 8.0))
    assert [(film.numbers[0], film.numbers[-1]) for film in films] == [(20, 100), (150, 225)]


@pytest.mark.parametrize(
    ("codec", "options", "shared"),
    [("libx264", None, 0), ("libx265", X265_REORDERED, 0), ("libx265", X265_OPEN, 1)],
    ids=["h264", "h265", "h265 with open groups"],
)
def test_a_long_action_is_cut_into_parts_without_a_gap(
    tmp_path: Path, codec: str, options: dict[str, str] | None, shared: int
) -> None:
    size = {"width": 160, "height": 96}
    path = write_clip(tmp_path / "a.mp4", frames=400, gop=25, codec=codec, options=options, **size)
    setup = Setup(tmp_path / "clips", longest_s=6)
    films = setup.read({"url": str(path), "pace": "fast"}, action(2.0, 14.0))
    for each in films:
        check_whole(each, fps=FPS)
        assert each.info.end_s - each.info.start_s < 6.01
        assert each.info.actions[0].start == 7
    assert [each.info.part for each in films] == list(range(1, len(films) + 1))
    assert [each.info.last for each in films] == [False] * (len(films) - 1) + [True]
    assert len(films) >= 3
    # In an open group, pictures before a key frame are predicted from it: both films have the key frame.
    for before, after in pairwise(films):
        assert after.numbers[0] == before.numbers[-1] + 1 or (shared and after.numbers[0] in before.numbers[-5:])
    assert (films[0].numbers[0], films[-1].numbers[-1]) == (25, 375)


def test_a_long_action_never_takes_the_space_of_the_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_clip(tmp_path / "a.mp4", frames=600, gop=25)
    setup = Setup(tmp_path / "clips", longest_s=6)
    monkeypatch.setattr(recording_module, "reserve_bytes", lambda folder: 10**18 if setup.films else 0)
    with pytest.raises(ClipError, match="to the journal"):
        setup.read({"url": str(path), "pace": "fast"}, action(4.0, 20.0))
    setup.recording.abandon(99.0)
    assert [info.part for _, info, _ in setup.films] == [1]
    assert not setup.recording.is_active


def test_an_action_whose_end_was_missed_ends_at_the_longest_duration(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", frames=600, gop=25, width=160, height=96)
    notes = [(4.6, note("start", 4.6))]
    (film,) = Setup(tmp_path / "clips", longest_s=14).read({"url": str(path), "pace": "fast"}, notes)
    assert film.info.last
    assert 12 < film.info.end_s - film.info.start_s <= 14
    check_whole(film, fps=FPS)


def test_an_update_begins_the_film_of_a_process_that_has_just_started(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", frames=150, gop=10)
    notes = [(1.0, note("update", 1.0, started_s=-60.0, start=3)), (2.2, note("end", 2.0, started_s=-60.0, start=3))]
    setup = Setup(tmp_path / "clips")
    (film,) = setup.read({"url": str(path), "pace": "fast"}, notes)
    check_whole(film, fps=FPS)
    assert (film.numbers[0], film.numbers[-1]) == (0, 75)
    assert film.info.actions[0].start == 3
    assert "late" in (film.info.note or "")
    assert setup.recording.late == 1


def test_an_action_that_lost_its_film_gets_another_one_after_a_minute(tmp_path: Path) -> None:
    recording = Setup(tmp_path / "clips").recording
    recording.apply(note("start", 4.6, started_s=4.0), 10.0)
    recording.abandon(11.0)
    recording.apply(note("update", 60.0, started_s=4.0), 70.9)
    assert not recording.is_active
    recording.apply(note("update", 61.0, started_s=4.0), 71.1)
    assert recording.is_active


def test_an_end_alone_makes_no_film(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", frames=50)
    assert Setup(tmp_path / "clips").read({"url": str(path), "pace": "fast"}, [(1.0, note("end", 1.0))]) == []


def test_another_picture_size_begins_another_film(tmp_path: Path) -> None:
    small, large = film(frames=250, gop=10), film(frames=250, gop=10, width=480, height=272, first=1000)
    with RtspServer({"door": small}) as server:
        server.fault("door", rate=8)
        setup = Setup(tmp_path / "clips")
        changed = []

        class Switching(PacketRing):
            def add_frame(self, frame: Any, wall_ns: int) -> None:
                super().add_frame(frame, wall_ns)
                if frame.pts_ns > 4 * NS and not changed:
                    changed.append(server.fault("door", film=large))

        setup.ring.__class__ = Switching
        films = setup.read({"url": server.url("door"), "demuxer": "rtp"}, action(2.0, 8.0), until_s=10)
    assert [each.info.part for each in films] == [1, 2]
    assert films[0].numbers[-1] < 1000 <= films[1].numbers[0]
    for each in films:
        assert each.numbers == list(range(each.numbers[0], each.numbers[0] + len(each.numbers)))


def test_a_ring_that_is_too_small_counts_what_it_lacks(tmp_path: Path) -> None:
    path = write_clip(
        tmp_path / "a.mp4", frames=200, gop=10, options={"bf": "0", "crf": "10", "x264-params": "threads=1"}
    )
    setup = Setup(tmp_path / "clips", ring_bytes=path.stat().st_size // 12)
    (film,) = setup.read({"url": str(path), "pace": "fast"}, action(4.0, 5.0, known_s=1.0))
    assert setup.ring.evicted > 0
    assert setup.ring.bytes <= path.stat().st_size // 12
    assert film.numbers[0] > 75
    assert "no earlier video was kept" in (film.info.note or "")
    assert film.numbers == list(range(film.numbers[0], film.numbers[0] + len(film.numbers)))


def test_a_group_of_pictures_that_is_larger_than_the_ring_never_grows_it(tmp_path: Path) -> None:
    path = write_clip(
        tmp_path / "a.mp4", frames=200, gop=500, options={"bf": "0", "crf": "10", "x264-params": "threads=1"}
    )
    setup = Setup(tmp_path / "clips", ring_bytes=path.stat().st_size // 12)
    assert setup.read({"url": str(path), "pace": "fast"}, action(4.0, 5.0)) == []
    setup.recording.apply(note("start", 60.0), 60.0)
    with pytest.raises(ClipError, match="no video came in time"):
        setup.recording.step(99.0)
    assert setup.ring.bytes <= path.stat().st_size // 12


def test_an_unwritable_folder_raises_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "clips").write_text("a file, not a folder")
    path = write_clip(tmp_path / "a.mp4", frames=150)
    setup = Setup(tmp_path / "clips")
    with pytest.raises(ClipError, match="File exists"):
        setup.read({"url": str(path), "pace": "fast"}, action(3.0, 4.0))
    setup.recording.abandon(99.0)
    assert not setup.recording.is_active


def test_a_disk_that_stalls_for_too_long_cuts_the_film_and_says_so(tmp_path: Path) -> None:
    options = {"bf": "0", "crf": "10", "x264-params": "threads=1"}
    path = write_clip(tmp_path / "a.mp4", frames=300, gop=10, options=options)
    setup = Setup(tmp_path / "clips", ring_bytes=path.stat().st_size // 4)
    first, second = setup.read({"url": str(path), "pace": "fast"}, action(2.0, 10.0), stalls_s=(4, 8.5))
    check_whole(first, fps=FPS)
    assert "too slow" in (first.info.note or "")
    assert (first.info.part, first.info.last, second.info.part, second.info.last) == (1, False, 2, True)
    assert second.numbers[0] > first.numbers[-1] + 1
    check_whole(second, fps=FPS)


def test_a_link_inside_the_folder_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "clips").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "clips" / "door").symlink_to(tmp_path / "elsewhere")
    path = write_clip(tmp_path / "a.mp4", frames=150)
    setup = Setup(tmp_path / "clips")
    with pytest.raises(ClipError, match="a link"):
        setup.read({"url": str(path), "pace": "fast"}, action(3.0, 4.0))
    assert list((tmp_path / "elsewhere").iterdir()) == []


@pytest.mark.parametrize("label", ["wave \u4f60\u597d", "a/../../b\n\0", "\U0001f44b", "x" * 256])
def test_any_label_gives_a_film(tmp_path: Path, label: str) -> None:
    path = write_clip(tmp_path / "a.mp4", frames=100, gop=10)
    (film,) = Setup(tmp_path / "clips").read({"url": str(path), "pace": "fast"}, action(1.5, 2.5, label=label))
    assert film.info.label == label
    check_whole(film, fps=FPS)
