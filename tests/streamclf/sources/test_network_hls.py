"""HLS from a local web server: live, with an end, silent, and with time stamps that wrap around."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from support.clips import read_number
from support.hls import FPS, HlsServer, serving, write_segment

from streamclf.config.service import StreamConfig
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
