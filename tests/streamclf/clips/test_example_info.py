"""The metadata of a film come from outside: they may hold anything, and lead nowhere."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import av
import orjson
import pytest
from support.clips import write_clip

from streamclf.clips.example_info import read_film_facts

FACTS = {"stream": "door", "began": "2026-11-29T08:00:00Z", "seconds": 2.0}


def with_comment(source: Path, path: Path, comment: str) -> Path:
    with av.open(str(source)) as film, av.open(str(path), "w") as output:
        output.metadata["comment"] = comment
        stream = output.add_stream_from_template(film.streams.video[0])
        for packet in film.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                output.mux(packet)
    return path


@pytest.mark.parametrize(
    ("change", "is_read"),
    [
        ({}, True),
        ({"began": "0001-01-01T00:00:00"}, False),
        ({"began": "0001-01-01T00:00:00+14:00"}, False),
        ({"began": "9999-12-31T23:59:59-14:00"}, False),
        ({"seconds": 1e300}, False),
        ({"stream": "../x"}, False),
    ],
)
def test_metadata_that_cannot_be_shown_are_left_out(change: dict[str, object], is_read: bool, tmp_path: Path) -> None:
    film = write_clip(tmp_path / "film.mp4", frames=10, width=64, height=48)
    path = with_comment(film, tmp_path / "example.mp4", orjson.dumps({**FACTS, **change}).decode())
    facts = read_film_facts(path)
    assert facts is not None
    assert facts.seconds > 0
    assert (facts.info is not None) == is_read


@pytest.mark.parametrize("script", ["#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{0}\n#EXT-X-ENDLIST\n",
                                    "ffconcat version 1.0\nfile {0}\n"])  # fmt: skip
def test_a_playlist_with_the_name_of_a_film_leads_to_no_pipe(script: str, tmp_path: Path) -> None:
    """Without a list of formats, FFmpeg opens the files of a playlist; a pipe makes it wait for ever."""
    os.mkfifo(tmp_path / "pipe.mp4")
    path = tmp_path / "a.mp4"
    path.write_text(script.format("pipe.mp4"))
    thread = threading.Thread(target=read_film_facts, args=(path,), daemon=True)
    thread.start()
    thread.join(60)
    waited = thread.is_alive()
    if waited:
        os.close(os.open(tmp_path / "pipe.mp4", os.O_WRONLY | os.O_NONBLOCK))  # ends the wait
    assert not waited
