"""A film that the disk has not taken as a whole is an error, also where only its last bytes are missing."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path

import av
import pytest
from support.clips import write_clip
from support.full_disk import files_of_at_most

from streamclf.clips.bitstream import read_extradata
from streamclf.clips.example_info import ExampleInfo
from streamclf.clips.example_writer import write_stretch
from streamclf.clips.film_end import complete_film
from streamclf.clips.film_file import FilmFile
from streamclf.clips.film_info import FilmAction, FilmInfo
from streamclf.clips.names import clip_name
from streamclf.clips.ring import PacketEntry, VideoFormat
from streamclf.errors import ClipError
from streamclf.units import NS

BEGAN = datetime(2026, 12, 1, 12, tzinfo=timezone.utc)


@pytest.fixture
def entries(tmp_path: Path) -> list[PacketEntry]:
    found: list[PacketEntry] = []
    with av.open(str(write_clip(tmp_path / "a.mp4"))) as film:
        video = film.streams.video[0]
        video_format = VideoFormat("h264", read_extradata("h264", video.codec_context.extradata))
        for packet in film.demux(video):
            if packet.size and packet.pts is not None and packet.time_base is not None:
                at_ns = round(packet.pts * packet.time_base * NS)
                found.append(
                    PacketEntry(len(found), video_format, bytes(packet), None, packet.is_keyframe, at_ns, 0, True)
                )
    return found


@pytest.mark.parametrize("missing", [1, 500])
def test_an_example_whose_end_does_not_fit_is_not_stored(
    tmp_path: Path, entries: list[PacketEntry], missing: int
) -> None:
    info = ExampleInfo(stream="door", began=BEGAN, seconds=2.0)
    size = write_stretch(tmp_path / "whole.mp4", entries, 0, info)
    with files_of_at_most(size - missing), pytest.raises(ClipError, match="File too large"):
        write_stretch(tmp_path / "cut.mp4", entries, 0, info)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a.mp4", "whole.mp4"]


@pytest.mark.parametrize("missing", [1, 500])
def test_a_clip_whose_end_does_not_fit_keeps_its_part(tmp_path: Path, entries: list[PacketEntry], missing: int) -> None:
    part, film = tmp_path / "clip.part", tmp_path / "clip.mp4"
    file = FilmFile(part, entries[0], title="door", description="")
    for entry in entries:
        file.write(entry)
    file.close()
    action = FilmAction(label="open", started_s=0.0, start=1, peak=0.9)
    info = FilmInfo(
        name=clip_name("door", BEGAN, "open"), began=BEGAN, start_s=0, end_s=2, actions=(action,), epoch="0" * 32
    )
    size = complete_film(part, film, info)
    film.unlink()
    with files_of_at_most(size - missing), pytest.raises(ClipError, match="File too large"):
        complete_film(part, film, info)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a.mp4", "clip.part"]
