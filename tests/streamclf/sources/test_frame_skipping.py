"""Frames that are not decoded: the chunks are the same, to the byte, and complete no later."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.clips import film, write_clip
from support.rtsp_server import RtspServer

from engines.arrays import U8
from streamclf.config.picture_area import PictureArea
from streamclf.config.stream import StreamConfig
from streamclf.sources import Frame, Source, open_source
from streamclf.sources.frame_skipping import MAX_PENDING_SKIPPED, MAX_PENDING_SKIPPED_NS, MAX_TIMES, PacketSkipper
from streamclf.sources.resize import Resize
from streamclf.windows.chunks import ChunkBuilder
from streamclf.windows.sampling import ChunkMeta, ChunkSampler

MS = 1_000_000
FLAT = {"preset": "ultrafast", "bf": "2", "x264-params": "b-pyramid=none:b-adapt=0:scenecut=0:threads=1"}
PYRAMID = {"preset": "ultrafast", "bf": "3", "x264-params": "b-pyramid=normal:b-adapt=0:scenecut=0:threads=1"}
OPEN = {**PYRAMID, "x264-params": f"{PYRAMID['x264-params']}:open-gop=1"}
HEVC = {
    "preset": "ultrafast",
    "x265-params": "log-level=none:pools=none:frame-threads=1:bframes=3:b-adapt=0:repeat-headers=1",
}


class Chunks:
    """A sink that keeps every chunk, and the number of packets that had arrived when it was complete."""

    def __init__(self, shape: tuple[int, int, int, int]) -> None:
        self._shape = shape
        self._place = np.empty(shape, np.uint8)
        self.packets = 0
        self.all: list[tuple[ChunkMeta, bytes]] = []
        self.after: list[int] = []

    def begin(self) -> U8:
        self._place = np.empty(self._shape, np.uint8)
        return self._place

    def commit(self, chunk: ChunkMeta) -> int:
        self.all.append((replace(chunk, captured_ns=0), self._place.tobytes()))
        self.after.append(self.packets)
        return 0


# A simulated decoder and its video, with any rates, orders and intervals.


@dataclass(frozen=True, slots=True)
class FakePacket:
    """One packet: its frame's place in display order, its time, and its kind."""

    number: int
    at_ns: int
    key: bool
    disposable: bool


def video(
    intervals_ms: Sequence[int], groups: Sequence[int], pyramid: bool, loose: Sequence[bool], gop: int
) -> tuple[list[FakePacket], int]:
    """Make packets in decoding order. Returns them and the number of frames that the decoder holds back.

    `groups`: the numbers of B frames before each other frame. `loose`: whether such a frame is disposable, if no B
    frame refers to it.
    """
    times = [0]
    for interval in intervals_ms:
        times.append(times[-1] + interval * MS)
    packets, number, turn = [FakePacket(0, 0, True, False)], 0, 0
    while True:
        between = groups[turn % len(groups)]
        last = number + between + 1
        if last >= len(times):
            break
        turn += 1
        key = turn % gop == 0
        disposable = not key and not between and not groups[turn % len(groups)] and loose[turn % len(loose)]
        packets.append(FakePacket(last, times[last], key, disposable))
        inner = list(range(number + 1, last))
        if pyramid and between > 1:
            middle = inner.pop(between // 2)
            packets.append(FakePacket(middle, times[middle], False, False))
        packets += [FakePacket(i, times[i], False, True) for i in inner]
        number = last
    deepest = max(groups)
    return packets, 0 if not deepest else 2 if pyramid and deepest > 1 else 1


def played(
    packets: Sequence[FakePacket],
    depth: int,
    threads: int,
    *,
    fps: float,
    frames_per_chunk: int,
    low_delay: bool,
    skip: bool,
) -> tuple[Chunks, list[int]]:
    """Play a video. Returns its chunks and the numbers of the skipped frames."""
    sink = Chunks((frames_per_chunk, 1, 1, 3))
    sampler = ChunkSampler(fps, frames_per_chunk)
    builder = ChunkBuilder(sampler, sink, height=1, width=1, resize="stretch")
    skipper: PacketSkipper[FakePacket] = PacketSkipper(low_delay=low_delay)
    if skip:
        skipper.selector = sampler
    inside: list[FakePacket] = []
    ready: list[FakePacket] = []
    skipped: list[int] = []
    seen: list[int] = []

    def show(made: FakePacket, image: int | None) -> None:
        seen.append(made.number)
        builder.push(Frame(index=made.number, pts_ns=made.at_ns, captured_ns=0, width=1, height=1, image=image,
                           render=render))  # fmt: skip

    def render(image: int, height: int, width: int, resize: Resize, out: U8, area: PictureArea) -> None:
        out[...] = (image & 255, image >> 8, height + width)

    def give_out(count: int) -> None:
        while len(ready) > count:
            made = ready.pop(0)
            for one in skipper.pop_skipped_before(made.at_ns):
                skipped.append(one.packet.number)
                show(one.packet, None)
            show(made, made.number)

    def decode(made: FakePacket) -> None:
        inside.append(made)
        inside.sort(key=lambda one: one.number)
        if len(inside) > depth:
            ready.append(inside.pop(0))
        give_out(threads)

    for packet in packets:
        sink.packets += 1
        admitted = skipper.push(
            packet, packet.at_ns, arrived_ns=0, key=packet.key, disposable=packet.disposable, intact=True
        )
        for made in admitted:
            decode(made)
    for made in skipper.flush():
        decode(made)
    ready += inside
    give_out(0)
    for one in skipper.pop_skipped():
        skipped.append(one.packet.number)
        show(one.packet, None)
    assert seen == sorted(packet.number for packet in packets), "each frame once, in display order"
    return sink, skipped


INTERVALS = st.lists(
    st.one_of(st.just(40), st.integers(1, 90), st.sampled_from([100, 263, 917, 3039])), min_size=2, max_size=90
)


@given(
    intervals_ms=st.one_of(INTERVALS, st.integers(5, 120).map(lambda n: [40] * n)),
    groups=st.lists(st.integers(0, 3), min_size=1, max_size=4),
    pyramid=st.booleans(),
    loose=st.lists(st.booleans(), min_size=1, max_size=5),
    gop=st.integers(1, 20),
    threads=st.integers(0, 5),
    fps=st.sampled_from([1, 2.5, 5, 7.3, 10, 12.5, 25, 30]),
    frames_per_chunk=st.integers(1, 6),
    low_delay=st.booleans(),
)
def test_skipping_gives_the_same_chunks_for_any_video(
    intervals_ms: list[int], groups: list[int], pyramid: bool, loose: list[bool], gop: int, threads: int, fps: float,
    frames_per_chunk: int, low_delay: bool,
) -> None:  # fmt: skip
    packets, depth = video(intervals_ms, groups, pyramid, loose, gop)
    keys: dict[str, Any] = {"fps": fps, "frames_per_chunk": frames_per_chunk, "low_delay": low_delay}
    plain, none = played(packets, depth, threads, skip=False, **keys)
    saving, skipped = played(packets, depth, threads, skip=True, **keys)
    assert not none
    assert saving.all == plain.all
    assert {packet.number for packet in packets if not packet.disposable}.isdisjoint(skipped)
    if low_delay and not threads:
        assert saving.after == plain.after, "a chunk may not complete later"


def test_only_the_needed_frames_of_a_regular_video_are_decoded() -> None:
    packets, depth = video([40] * 200, [0], False, [True], 50)
    _, skipped = played(packets, depth, 0, fps=5, frames_per_chunk=1, low_delay=True, skip=True)
    # All but the first of 50 frames are disposable; one of five of these is needed.
    disposable = {packet.number for packet in packets if packet.disposable}
    assert disposable - set(skipped) == {number for number in disposable if number % 5 == 0}


class NeedsNothing:
    """A selector that needs no frame."""

    def may_need(self, before_ns: int, at_ns: int, after_ns: int, longest_ns: int) -> bool:
        assert before_ns < at_ns <= after_ns
        return False

    def may_need_previous(self, before_ns: int, at_ns: int, shortest_ns: int) -> bool:
        assert before_ns < at_ns
        return False


def push(skipper: PacketSkipper[int], at_ns: int | None, *, key: bool = False, intact: bool = True) -> list[int]:
    item = -1 if at_ns is None else at_ns
    made = list(skipper.push(item, at_ns, arrived_ns=0, key=key, disposable=not key, intact=intact))
    for one in made:
        skipper.pop_skipped_before(None if one < 0 else one)
    return made


def skipping() -> PacketSkipper[int]:
    skipper: PacketSkipper[int] = PacketSkipper(low_delay=True)
    skipper.selector = NeedsNothing()
    assert push(skipper, 10, key=True) == [10]
    assert push(skipper, 20) == [], "the packet waits for the next one's time"
    assert push(skipper, 30) == []
    return skipper


def test_damage_pauses_skipping_until_the_next_key_frame() -> None:
    skipper = skipping()
    assert push(skipper, 40, intact=False) == [30, 40], "the waiting packet is decoded, too"
    assert push(skipper, 50) == [50]
    assert push(skipper, 60, key=True) == [60]
    assert push(skipper, 70) == []
    skipper.pause_until_key(50)
    assert push(skipper, 80) == [], "damage before the key frame does not matter"
    skipper.pause_until_key(60)
    assert push(skipper, 90) == [80, 90]


def test_a_time_stamp_that_goes_back_or_is_missing_pauses_skipping() -> None:
    for at_ns in (5, None):
        skipper = skipping()
        assert push(skipper, at_ns) == [30, -1 if at_ns is None else 5]
        assert push(skipper, 50) == [50]
        assert push(skipper, 60, key=True) == [60]
        assert push(skipper, 70) == []


def test_no_packet_is_skipped_before_the_first_frame_or_at_a_repeated_time() -> None:
    skipper: PacketSkipper[int] = PacketSkipper(low_delay=False)
    skipper.selector = NeedsNothing()
    assert list(skipper.push(10, 10, arrived_ns=0, key=True, disposable=False, intact=True)) == [10]
    assert list(skipper.push(20, 20, arrived_ns=0, key=False, disposable=True, intact=True)) == [20], (
        "no frame has come out yet"
    )
    skipper.pop_skipped_before(10)
    assert list(skipper.push(20, 20, arrived_ns=0, key=False, disposable=True, intact=True)) == [20]


def test_a_packet_is_decoded_before_skipped_ones_wait_too_long() -> None:
    """All but the key frames of some cameras are disposable, and a slow model needs few: it would look stalled."""
    skipper = skipping()
    shown: list[int] = []
    for i in range(4, 100):
        now_ns = i * 40 * MS
        for made in skipper.push(i * 10, i * 10, arrived_ns=now_ns, key=False, disposable=True, intact=True):
            shown += [one.packet for one in skipper.pop_skipped_before(made)]
            shown.append(made)
    assert shown == [i * 10 for i in range(2, 2 + len(shown))]
    assert len(shown) > 85
    assert len(list(skipper.pop_skipped())) <= MAX_PENDING_SKIPPED_NS // (40 * MS) + 1


def test_packets_that_never_come_out_of_the_decoder_are_forgotten() -> None:
    skipper = skipping()
    for i in range(4, 5 * MAX_TIMES):
        assert skipper.push(i, i * 10, arrived_ns=0, key=not i % 50, disposable=bool(i % 50), intact=True) is not None
    assert len(skipper._times) <= 2 * MAX_TIMES + 1
    assert len(skipper._decoding) <= 2 * MAX_TIMES + 1
    assert len(skipper._skipped) <= MAX_PENDING_SKIPPED


def test_a_frame_without_a_time_pauses_skipping_for_the_held_packet() -> None:
    skipper = skipping()
    assert list(skipper.push(40, 40, arrived_ns=0, key=False, disposable=True, intact=True)) == []
    assert [one.packet for one in skipper.pop_skipped_before(None)] == [20, 30]
    skipper.pop_skipped_before(90)
    assert list(skipper.push(100, 100, arrived_ns=0, key=False, disposable=True, intact=True)) == [40, 100]


def test_interlaced_video_disables_skipping() -> None:
    skipper = skipping()
    skipper.disable()
    assert push(skipper, 40) == [30, 40]
    assert push(skipper, 50, key=True) == [50]
    assert push(skipper, 60) == [60]


# Tests with real decoders.


def chunks_of(source: Source, fps: float, frames_per_chunk: int, *, skip: bool, chunks: int = 0) -> tuple[Chunks, int]:
    sink = Chunks((frames_per_chunk, 90, 160, 3))
    sampler = ChunkSampler(fps, frames_per_chunk)
    builder = ChunkBuilder(sampler, sink, height=90, width=160, resize="stretch")
    if skip:
        source.set_frame_selector(sampler)
    skipped, before = 0, -1
    for frame in source:
        assert frame.pts_ns > before, "in display order"
        before = frame.pts_ns
        assert (frame.width, frame.height) == (320, 180)
        builder.push(frame)
        skipped += frame.skipped
        if chunks and len(sink.all) >= chunks:
            break
    return sink, skipped


FILMS: dict[str, tuple[str, dict[str, str]]] = {
    "flat.mp4": ("libx264", FLAT),
    "pyramid.ts": ("libx264", PYRAMID),
    "open.mkv": ("libx264", OPEN),
    "hevc.mp4": ("libx265", HEVC),
    "hevc.ts": ("libx265", HEVC),
    "mpeg4.mp4": ("mpeg4", {"bf": "2"}),
    "mpeg2.ts": ("mpeg2video", {"bf": "2"}),
    "jpeg.avi": ("mjpeg", {}),
    "jpeg.mkv": ("mjpeg", {}),
}


@pytest.fixture(scope="module", params=FILMS)
def movie(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    codec, options = FILMS[request.param]
    made: Path = write_clip(
        tmp_path_factory.mktemp("films") / request.param,
        frames=120,
        gop=40,
        codec=codec,
        options=options,
    )
    return made


@pytest.mark.parametrize(("fps", "frames_per_chunk"), [(10, 1), (5, 4), (3.3, 2), (25, 1)])
def test_skipping_gives_a_file_the_same_chunks_to_the_byte(movie: Path, fps: float, frames_per_chunk: int) -> None:
    config = StreamConfig(url=str(movie), pace="fast")
    with open_source(config) as source:
        plain, none = chunks_of(source, fps, frames_per_chunk, skip=False)
    with open_source(config) as source:
        saving, skipped = chunks_of(source, fps, frames_per_chunk, skip=True)
    assert saving.all == plain.all
    assert len(saving.all) >= 4
    assert none == 0
    assert (skipped == 0) == (fps == 25)
    if fps <= 5:
        assert skipped > 25, "of 120, at least a third are B frames that are not needed"
    if fps <= 5 and "jpeg" in movie.name:
        assert skipped > 80, "every frame that is not needed"


@pytest.mark.parametrize("codec", ["libx264", "libx265"])
def test_skipping_a_file_that_begins_with_undecodable_leading_pictures(tmp_path: Path, codec: str) -> None:
    """The first frames are predicted from frames that were cut off: the decoder drops them, so we must, too."""
    whole = write_clip(
        tmp_path / "whole.mkv", frames=150, gop=25, codec=codec, options=OPEN if codec == "libx264" else HEVC
    )
    cut = tmp_path / "cut.mkv"
    with av.open(str(whole)) as source, av.open(str(cut), "w") as sink:
        stream = sink.add_stream_from_template(source.streams.video[0])
        keys = 0
        for packet in source.demux(video=0):
            keys += packet.is_keyframe
            if keys >= 2 and packet.size:
                packet.stream = stream
                sink.mux(packet)
    found = []
    for skip in (False, True):
        with open_source(StreamConfig(url=str(cut), pace="fast")) as opened:
            found.append(chunks_of(opened, 5, 1, skip=skip))
    assert found[1][0].all == found[0][0].all
    assert found[1][1] > 10


@pytest.mark.parametrize("demuxer", ["rtp", "ffmpeg"])
@pytest.mark.parametrize("kind", ["flat", "pyramid", "hevc"])
def test_skipping_gives_a_camera_the_same_chunks_to_the_byte(kind: str, demuxer: str) -> None:
    codec = "libx265" if kind == "hevc" else "libx264"
    options = tuple({"flat": FLAT, "pyramid": PYRAMID, "hevc": HEVC}[kind].items())
    movie = film(frames=100, gop=50, codec=codec, options=options)
    assert movie.order != tuple(range(100)), "it has B frames"
    found = []
    with RtspServer({"cam": movie}) as server:
        server.fault("cam", rate=4.0)  # faster than real time; the time stamps stay the same
        for skip in (False, True):
            config = StreamConfig.model_validate({"url": server.url("cam"), "demuxer": demuxer, "read_timeout_s": 5})
            with open_source(config) as source:
                found.append(chunks_of(source, 5, 2, skip=skip, chunks=4))
    (plain, none), (saving, skipped) = found
    assert [chunk for _, chunk in saving.all] == [chunk for _, chunk in plain.all]
    assert none == 0
    assert skipped > 0 or demuxer == "ffmpeg"


def test_a_camera_without_b_frames_skips_nothing() -> None:
    with RtspServer({"cam": film(frames=50)}) as server, open_source(StreamConfig(url=server.url("cam"))) as source:
        sink, skipped = chunks_of(source, 5, 2, skip=True, chunks=3)
    assert skipped == 0
    assert len(sink.all) == 3


def test_a_skipped_frame_has_its_times_but_cannot_be_rendered(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "flat.mp4", frames=30, options=FLAT)
    with open_source(StreamConfig(url=str(path), pace="fast")) as source:
        source.set_frame_selector(NeedsNothing())
        frames = list(source)
    left_out = [frame for frame in frames if frame.skipped]
    assert [frame.index for frame in frames] == list(range(30))
    assert [frame.pts_ns for frame in frames] == [i * 40 * MS for i in range(30)]
    assert len(left_out) > 10
    with pytest.raises(ValueError, match="was not decoded"):
        left_out[0].to_rgb(90, 160)


def frames_at(times_ms: Sequence[int], skipped: Sequence[int]) -> Iterator[Frame]:
    def render(image: int, height: int, width: int, resize: Resize, out: U8, area: PictureArea) -> None:
        out[...] = image

    for i, at_ms in enumerate(times_ms):
        image = None if i in skipped else i
        yield Frame(
            index=i, pts_ns=at_ms * MS, captured_ns=0, width=8, height=8, image=image, render=render
        )  # fmt: skip


@pytest.mark.parametrize(
    ("times_ms", "skipped", "segments"),
    [
        (
            [0, 40, 80, 120, 160, 200],
            [2],
            1,
        ),  # 80 ms is needed for 100 ms: 120 ms takes its place, as if 80 had been lost
        ([0, 40, 120, 160, 200], [1], 1),
        ([0, 40, 70, 130, 170, 200, 240], [2, 3], 2),  # 130 ms is not needed itself, and cannot begin a segment either
        ([0, 40, 80, 125, 230, 300], [3], 2),  # 125 ms is needed only because the next frame is late: the segment ends
    ],
)
def test_a_skipped_frame_that_is_needed_after_all_counts_as_lost(
    times_ms: list[int], skipped: list[int], segments: int
) -> None:
    """Damage or a stall may change which frames are needed after the decision. No other frame may replace it."""
    sink = Chunks((1, 8, 8, 3))
    builder = ChunkBuilder(ChunkSampler(10, 1), sink, height=8, width=8, resize="stretch")
    for frame in frames_at(times_ms, skipped):
        builder.push(frame)
    assert {meta.segment for meta, _ in sink.all} == set(range(1, segments + 1))
    for meta, chunk in sink.all:
        assert chunk[0] not in skipped
        assert abs(times_ms[chunk[0]] * MS - meta.start_pts_ns) <= 50 * MS


def test_frames_predicted_from_damage_are_decoded_until_the_next_key_frame() -> None:
    """Skipping must not hide lost packets."""
    movie = film(frames=100, gop=25, codec="libx264", options=tuple(FLAT.items()))
    sampler = ChunkSampler(5, 1)
    builder = ChunkBuilder(sampler, Chunks((1, 90, 160, 3)), height=90, width=160, resize="stretch")
    with (
        RtspServer({"cam": movie}) as server,
        open_source(StreamConfig(url=server.url("cam"), demuxer="rtp")) as source,
    ):
        source.set_frame_selector(sampler)
        server.fault("cam", drop=0.3)
        smeared, whole_since = False, 0
        for frame in source:
            builder.push(frame)
            assert not (frame.skipped and (frame.broken or smeared)), "predicted from a damaged frame"
            if frame.corrupt and not smeared:
                server.fault("cam", drop=0.0)
            if smeared and not frame.corrupt:
                whole_since = frame.index
            smeared = frame.corrupt
            if whole_since and frame.skipped:
                break
            assert frame.index < 200
        assert source.lost > 0
    assert frame.index - whole_since < 10, "one key frame after the damage is enough"
