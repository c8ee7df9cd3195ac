"""HLS from a local web server: live, with an end, silent, and with time stamps that wrap around."""

from __future__ import annotations

import itertools
import threading
from pathlib import Path

import pytest
from support.clips import read_number
from support.hls import DISCONTINUITY, FPS, LISTED, SEGMENT_S, HlsServer, serving, write_segment

from streamclf.config.stream import StreamConfig
from streamclf.errors import SourceError
from streamclf.sources import Frame, network, open_source
from streamclf.sources.pacing import RealtimePacer

SECONDS = 3


@pytest.fixture(scope="module")
def segments(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("hls")
    return [write_segment(folder / f"{i}.ts", i) for i in range(12)]


@pytest.fixture
def without_pacing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Play files as fast as they can be read."""
    monkeypatch.setattr(RealtimePacer, "wait", lambda *_, **__: None)


def live(url: str, **keys: object) -> StreamConfig:
    return StreamConfig.model_validate({"url": url, "open_timeout_s": 5, "read_timeout_s": 1, **keys})


def numbers(frames: list[Frame]) -> list[int]:
    return [read_number(frame.to_rgb(180, 320)) for frame in frames]


def test_a_live_playlist_is_played_in_real_time_although_it_arrives_in_segments(segments: list[Path]) -> None:
    with serving(HlsServer(segments)) as base, open_source(live(f"{base}/live.m3u8")) as source:
        assert source.live
        assert source.info.codec == "h264"
        frames = list(itertools.islice(source, SECONDS * FPS))
    seen = numbers(frames)
    assert seen == list(range(seen[0], seen[0] + SECONDS * FPS)), "no frame is lost between segments"
    took_s = (frames[-1].captured_ns - frames[0].captured_ns) / 1e9
    assert took_s > SECONDS - 1, "segments are not returned at once: the pause after them would look like a stall"
    gaps = [(b.captured_ns - a.captured_ns) / 1e9 for a, b in itertools.pairwise(frames)]
    assert sorted(gaps)[len(gaps) // 2] < 0.2


@pytest.mark.usefixtures("without_pacing")
def test_a_playlist_with_an_end_is_played_to_its_end(segments: list[Path]) -> None:
    with serving(HlsServer(segments[:2])) as base, open_source(live(f"{base}/film.m3u8")) as source:
        assert not source.live
        assert numbers(list(source)) == list(range(2 * FPS))


@pytest.mark.parametrize("name", ["seg/{}?token=1", "{}.jpg", "{}.ts?file=a.exe", "get.php?n={}"])
def test_segments_may_have_any_name(segments: list[Path], name: str) -> None:
    with serving(HlsServer(segments, name=name)) as base, open_source(live(f"{base}/live.m3u8")) as source:
        seen = numbers(list(itertools.islice(source, 30)))
    assert seen == list(range(seen[0], seen[0] + 30))


@pytest.mark.usefixtures("without_pacing")
@pytest.mark.parametrize("tags", [(), (DISCONTINUITY,)], ids=["", "with discontinuity tags"])
@pytest.mark.parametrize("jump_s", [0, -1, 40_000], ids=["one clock", "each from 0", "other times"])
def test_segments_that_were_written_alone_have_no_damage_and_no_gap(
    tmp_path: Path, jump_s: int, tags: tuple[str, ...]
) -> None:
    """Each begins with continuity counters from 0, which FFmpeg takes for damage, and maybe with other time stamps."""
    alone = [write_segment(tmp_path / f"{i}.ts", i, start_ticks=(9 + i * jump_s) * 90_000 % 2**33) for i in range(6)]
    with serving(HlsServer(alone, tags=tags)) as base, open_source(live(f"{base}/live.m3u8")) as source:
        frames = list(itertools.islice(source, 90))
    seen = numbers(frames)
    assert seen == list(range(seen[0], seen[0] + 90))
    assert not any(frame.corrupt or frame.broken for frame in frames)
    assert {round((b.pts_ns - a.pts_ns) / 1e6) for a, b in itertools.pairwise(frames)} == {40}


@pytest.mark.usefixtures("without_pacing")
def test_damage_inside_a_segment_is_marked(segments: list[Path], tmp_path: Path) -> None:
    damaged = [tmp_path / f"{i}.ts" for i in range(4)]
    for path, segment in zip(damaged, segments, strict=False):
        data = segment.read_bytes()
        middle = len(data) // 188 // 2 * 188
        path.write_bytes(data[:middle] + data[middle + 188 :])
    with serving(HlsServer(damaged)) as base, open_source(live(f"{base}/live.m3u8")) as source:
        frames = list(itertools.islice(source, 40))
    assert any(frame.broken for frame in frames)


def test_segments_that_expire_unread_stop_the_stream_for_no_longer(segments: list[Path]) -> None:
    """To wait for the time of the skipped segments would let the next ones expire as well, for ever."""
    hls = HlsServer(segments)
    with serving(hls) as base, open_source(live(f"{base}/live.m3u8")) as source:
        frames = list(itertools.islice(source, 5))
        hls.skip(7)
        frames += itertools.islice(source, 80)
    gaps = [round((b.pts_ns - a.pts_ns) / 1e9) for a, b in itertools.pairwise(frames)]
    assert sorted(gaps)[-1] >= 3, "the skipped segments are a gap"
    waits = [(b.captured_ns - a.captured_ns) / 1e9 for a, b in itertools.pairwise(frames)]
    assert max(waits) < 2.5


def test_a_playlist_that_stops_growing_fails_after_the_read_timeout(
    segments: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network, "HLS_READ_S", 2.0)
    hls = HlsServer(segments)
    with serving(hls) as base, open_source(live(f"{base}/live.m3u8")) as source:
        next(source)
        hls.going.clear()
        with pytest.raises(SourceError, match=r"no data for 2 s \(read_timeout_s\)|the stream ended"):
            list(itertools.islice(source, 1000))


@pytest.mark.parametrize("path", ["live.m3u8", "stream"])
def test_a_pause_between_segments_may_exceed_the_read_timeout_whatever_the_url(segments: list[Path], path: str) -> None:
    """The playlist stays as it is for 2.5 s; `read_timeout_s` is 1 s."""
    hls = HlsServer(segments)
    with serving(hls) as base, open_source(live(f"{base}/{path}", read_timeout_s=1)) as source:
        assert source.may_pause
        hls.going.clear()
        threading.Timer(2.5 + LISTED * SEGMENT_S, hls.going.set).start()
        assert len(list(itertools.islice(source, 6 * FPS))) == 6 * FPS


def test_a_new_connection_to_a_server_that_pauses_returns_no_frame_again(
    segments: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its playlist stays as it is. The stream would be live for some seconds after each attempt, with old frames."""
    monkeypatch.setattr(network, "HLS_READ_S", 1.0)
    hls = HlsServer(segments)
    frames: list[Frame] = []
    with serving(hls) as base:
        hls.going.clear()
        for _ in range(2):
            with open_source(live(f"{base}/live.m3u8", read_timeout_s=1)) as source, pytest.raises(SourceError):
                frames += source  # to the end of the playlist
    assert source.stale > 0
    seen = numbers(frames)
    assert len(seen) >= FPS
    assert len(seen) == len(set(seen))


def test_a_missing_playlist_is_reported(segments: list[Path]) -> None:
    with serving(HlsServer(segments)) as base, pytest.raises(SourceError, match="not found"):
        open_source(live(f"{base}/absent.m3u8"))


@pytest.mark.usefixtures("without_pacing")
def test_a_clock_that_wraps_at_33_bits_causes_no_jump(tmp_path: Path) -> None:
    """MPEG-TS wraps around after 26.5 h; here in the middle of the second of three segments."""
    start = 2**33 - int(1.5 * 90_000)
    wrapping = [write_segment(tmp_path / f"{i}.ts", i, start_ticks=start) for i in range(3)]
    with serving(HlsServer(wrapping)) as base, open_source(live(f"{base}/film.m3u8")) as source:
        frames = list(source)
    assert numbers(frames) == list(range(3 * FPS))
    steps = {round((b.pts_ns - a.pts_ns) / 1e6) for a, b in itertools.pairwise(frames)}
    assert steps == {40}, "no jump"
