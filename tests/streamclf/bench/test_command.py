"""The parts of `streamclf bench` that need no service: films, cameras, latency, capacity, limits, loads."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from support.bundles import make_brightness_bundle

from engines.bundle import Bundle
from engines.opening import open_engine
from streamclf.bench.bundle_speed import bench_bundle, lines
from streamclf.bench.cameras.film import Film, FilmSpec, load_film, make_film, save_film
from streamclf.bench.cameras.rtsp_server import HOST, CameraServer
from streamclf.bench.gpu.live_load import run_live_load
from streamclf.bench.graph_cost import count_flops
from streamclf.bench.service.capacity import find_capacity
from streamclf.bench.service.cpu_limit import measure_cpu_limit
from streamclf.bench.service.latency import ReceivedPrediction, completing_frame, latencies_ms, percentile
from streamclf.bench.service.process_usage import UsageSampler, process_cpu_s
from streamclf.bench.timing import batch_sizes, measure
from streamclf.builtin_models import BUNDLES
from streamclf.cli import _main
from streamclf.config.service import EngineConfig, StreamConfig
from streamclf.errors import BenchError, SourceError, UsageError
from streamclf.runtime.profiling import STAGES, CountedStages, Stages, open_stages, read_stages
from streamclf.sources import open_source
from streamclf.windows.sampling import ChunkSampler, exact_fps

MS = 1_000_000


@pytest.fixture(scope="module")
def film() -> Film:
    return make_film(FilmSpec(width=320, height=180, fps=25))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_brightness_bundle(tmp_path_factory.mktemp("bundles") / "brightness")


# The film and its cameras.


def test_a_film_decodes_to_its_pictures_and_survives_its_file(film: Film, tmp_path: Path) -> None:
    save_film(film, tmp_path / "film")
    assert load_film(tmp_path / "film") == film
    decoder: Any = av.CodecContext.create("h264", "r")
    pictures = [
        frame for unit in film.units for frame in decoder.decode(av.Packet(b"".join(b"\0\0\0\1" + nal for nal in unit)))
    ]
    pictures += decoder.decode(None)
    assert len(pictures) == len(film.units) == 100
    assert {(frame.width, frame.height) for frame in pictures} == {(320, 180)}
    first, second = (frame.to_ndarray(format="rgb24") for frame in pictures[:2])
    assert np.abs(first.astype(int) - second).mean() > 0.5, "a still picture would cost nothing to decode"


@pytest.mark.parametrize(
    ("spec", "message"),
    [((32, 32, 25), "--size 32x32"), ((321, 180, 25), "even"), ((320, 180, 0.5), "--fps 0.5: 1 to 240")],
)
def test_a_camera_that_nobody_has_is_refused(spec: tuple[int, int, float], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        FilmSpec(width=spec[0], height=spec[1], fps=spec[2])


@contextmanager
def serving(film: Film, count: int) -> Iterator[tuple[CameraServer, str]]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    cameras = CameraServer(film, count)
    try:
        port = asyncio.run_coroutine_threadsafe(cameras.listen(), loop).result(10)
        loop.call_soon_threadsafe(cameras.began.set)
        yield cameras, f"rtsp://{HOST}:{port}"
    finally:
        asyncio.run_coroutine_threadsafe(cameras.close(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


def test_cameras_show_their_film_by_the_clock_and_note_when(film: Film) -> None:
    """What latency is counted from: each picture's time, before the client can have it, one interval apart."""
    with serving(film, 2) as (cameras, url), open_source(StreamConfig(url=f"{url}/cam1")) as source:
        frames = [next(source) for _ in range(12)]
        played = cameras.played["cam1"][0]
        assert cameras.played["cam0"] == []
    assert [round((frame.pts_ns - frames[0].pts_ns) / MS) for frame in frames] == [40 * i for i in range(12)]
    assert all(sent < frame.captured_ns for sent, frame in zip(played.sent_ns, frames, strict=False))
    due_ns = [sent - late for sent, late in zip(played.sent_ns, played.late_ns, strict=True)]
    assert np.diff(due_ns) == pytest.approx(40 * MS, abs=1000)
    assert min(played.late_ns) > -MS


def test_a_camera_that_is_not_there_and_udp_are_refused(film: Film) -> None:
    with serving(film, 1) as (_, url):
        with pytest.raises(SourceError, match="404"):
            open_source(StreamConfig(url=f"{url}/cam1"))
        with pytest.raises(SourceError):
            open_source(StreamConfig(url=f"{url}/cam0", transport="udp"))


# Latency.


@pytest.mark.parametrize(
    ("fps", "model_fps", "frames_per_chunk"),
    [(25, 10, 2), (30, 12.5, 2), (15, 10, 1), (29.97, 8, 4), (10, 10, 1), (60, 25, 2)],
)
def test_the_completing_picture_is_the_one_with_which_sampling_completes_the_window(
    fps: float, model_fps: float, frames_per_chunk: int
) -> None:
    """Taken from the service's own sampler: a bench that guessed another picture would show another latency."""
    rate, model_rate = exact_fps(fps), exact_fps(model_fps)
    sampler = ChunkSampler(model_fps, frames_per_chunk)
    seen = []
    for number in range(200):
        ticks = number * 90_000 * rate.denominator // rate.numerator  # RTP's clock
        pts_ns = round(Fraction(ticks * 1_000_000_000, 90_000))
        picks = sampler.offer(pts_ns, 0)
        seen += [(pick.chunk.end_pts_ns / 1e9, number) for pick in picks if pick.chunk is not None]
    assert len(seen) > 10
    for end_s, number in seen:
        assert completing_frame(end_s, model_rate=model_rate, rate=rate) == number


def test_latencies_are_those_of_the_first_segment_in_the_measured_time() -> None:
    rates = {"model_rate": Fraction(10), "rate": Fraction(25)}
    sent_ns = [1000 * MS + 40 * MS * i for i in range(60)]
    heard = [
        # Windows of 0.4 s every 0.2 s, on a clock that begins at 7 s, each 30 ms after its last picture.
        ReceivedPrediction(
            segment=4,
            start_s=7 + 0.2 * i,
            end_s=7.4 + 0.2 * i,
            at_ns=sent_ns[completing_frame(0.4 + 0.2 * i, **rates)] + 30 * MS,
        )
        for i in range(8)
    ]
    later = ReceivedPrediction(segment=5, start_s=9, end_s=9.4, at_ns=heard[-1].at_ns)
    since_ns, until_ns = heard[2].at_ns, heard[6].at_ns
    found = latencies_ms([*heard, later], sent_ns, since_ns=since_ns, until_ns=until_ns, **rates)
    assert found == pytest.approx([30.0] * 4)
    sent_ns[completing_frame(1.0, **rates)] = 0  # a picture that the camera dropped
    assert len(latencies_ms(heard, sent_ns, since_ns=since_ns, until_ns=until_ns, **rates)) == 3
    assert latencies_ms([], sent_ns, since_ns=0, until_ns=1, **rates) == []


def test_latency_where_the_first_windows_were_given_up() -> None:
    """Media time counts from the first picture; where it does not, nothing is matched rather than something wrong."""
    rates = {"model_rate": Fraction(10), "rate": Fraction(25)}
    sent_ns = [i * 40 * MS for i in range(100)]
    windows = [(i, completing_frame(i / 10 + 1.6, **rates)) for i in range(4, 12)]
    heard = [
        ReceivedPrediction(segment=1, start_s=i / 10, end_s=i / 10 + 1.6, at_ns=sent_ns[number] + 50 * MS)
        for i, number in windows
    ]
    found = latencies_ms(heard, sent_ns, lost_first=True, since_ns=0, until_ns=1 << 62, **rates)
    assert found == pytest.approx([50.0] * 8)
    for stranger in (replace(heard[0], segment=2), replace(heard[0], start_s=0.44)):
        assert latencies_ms([stranger], sent_ns, lost_first=True, since_ns=0, until_ns=1 << 62, **rates) == []


def test_percentiles_are_values_that_were_seen() -> None:
    values = [float(i) for i in range(1, 101)]
    assert [percentile(reversed(values), percent) for percent in (0, 50, 90, 99, 100)] == [1, 50, 90, 99, 100]
    assert percentile([3.0], 99) == 3.0
    assert percentile([], 50) is None


# Capacity, limits, loads.


@pytest.mark.parametrize("capacity", [0, 1, 2, 3, 7, 8, 9, 23, 64, 100])
@pytest.mark.parametrize("first", [1, 4, 50])
def test_capacity_is_found_with_few_measurements(capacity: int, first: int) -> None:
    asked: list[int] = []

    def held(streams: int) -> bool:
        asked.append(streams)
        return streams <= capacity

    assert find_capacity(held, first=first, most=64) == min(capacity, 64)
    assert len(asked) == len(set(asked)) <= 2 + 2 * math.log2(64)
    assert all(1 <= streams <= 64 for streams in asked)


def test_batches_are_powers_of_two_and_the_largest() -> None:
    assert [batch_sizes(most) for most in (1, 2, 6, 16)] == [[1], [1, 2], [1, 2, 4, 6], [1, 2, 4, 8, 16]]


def test_a_measurement_counts_calls_and_separates_work_from_waiting() -> None:
    calls: list[str] = []

    def wait() -> None:
        calls.append("wait")
        time.sleep(0.01)

    cost = measure(wait, finish=lambda: calls.append("finish"), rounds=3, seconds=0.02)
    assert cost.wall_s >= 0.01
    assert cost.cpu_s < cost.wall_s / 2, "a sleeping thread takes no processor time"
    assert calls[-1] == "finish"
    assert calls.count("finish") == 2 + 3


def test_the_limit_is_the_sum_of_its_parts(bundle: Bundle, film: Film, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamclf.bench.service.cpu_limit.ROUND_S", 0.02)
    limit = measure_cpu_limit(bundle, EngineConfig(backend="onnxruntime", max_batch=2), film, streams=2)
    assert min(limit.decode_s, limit.encode_s, limit.head_s) > 0
    total = limit.cpu_s_per_s(pictures_per_s=50, chunks_per_s=10, windows_per_s=5)
    assert total == pytest.approx(50 * limit.decode_s + 10 * limit.encode_s + 5 * limit.head_s)


def test_a_paced_load_classifies_every_chunk_of_every_stream(bundle: Bundle) -> None:
    streams, seconds, rate = 7, 0.6, bundle.spec.fps / bundle.spec.frames_per_chunk
    engine = open_engine(bundle, backend="onnxruntime", max_batch=4, bank_slots=streams * (bundle.spec.chunks + 1))
    windows = 0
    classify = engine.classify

    def counting(slots: Any) -> Any:
        nonlocal windows
        windows += len(slots)
        assert all(len(set(window)) == bundle.spec.chunks for window in slots.tolist())
        assert len({window[0] // (bundle.spec.chunks + 1) for window in slots.tolist()}) == len(slots)
        return classify(slots)

    engine.classify = counting  # type: ignore[method-assign]
    found = run_live_load(engine, streams=streams, chunks_per_s=rate, seconds=seconds)
    engine.close()
    assert windows == 4 + streams * int(seconds * rate)  # 4: the warm-up
    assert found["chunks_per_s_wanted"] == streams * rate
    latency = found["latency_ms"]
    assert 0 < latency["p50"] <= latency["p90"] <= latency["p99"] <= latency["max"]
    assert 1 <= found["batch_mean"] <= 4


@pytest.mark.skipif(importlib.util.find_spec("onnx") is None, reason="counts an ONNX graph")
def test_operations_are_counted_from_shapes(tmp_path: Path) -> None:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    nodes = [
        helper.make_node("Conv", ["x", "kernel"], ["y"], kernel_shape=[3, 3]),
        helper.make_node("Reshape", ["y", "shape"], ["flat"]),
        helper.make_node("Gemm", ["flat", "weight"], ["out"]),
        helper.make_node("MatMul", ["out", "square"], ["z"]),
    ]
    constants = {
        "kernel": np.zeros((4, 3, 3, 3), np.float32),
        "shape": np.array([-1, 4 * 6 * 6]),
        "weight": np.zeros((144, 10), np.float32),
        "square": np.zeros((10, 10), np.float32),
    }
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 8, 8])],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, ["N", 10])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), tmp_path / "g.onnx")
    convolution, gemm, product = 2 * 4 * 6 * 6 * 27, 2 * 144 * 10, 2 * 10 * 10
    assert count_flops(tmp_path / "g.onnx") == convolution + gemm + product


def test_the_built_in_model_has_operations_to_count() -> None:
    encoder = count_flops(BUNDLES / "camera-events" / "encoder.onnx")
    assert 1e6 < count_flops(BUNDLES / "camera-events" / "head.onnx") < encoder < 1e9


def test_a_bundle_is_measured_by_backend_precision_and_batch(bundle: Bundle) -> None:
    found = bench_bundle(bundle, backend="onnxruntime", precision=None, max_batch=4, seconds=0.01)
    assert [(row["backend"], row["precision"], row["batch"]) for row in found["results"]] == [
        ("onnxruntime", "fp32", batch) for batch in (1, 2, 4)
    ]
    for row in found["results"]:
        for part in (row["encode"], row["classify"]):
            assert part["ms"] > 0
            assert part["items_per_s"] == pytest.approx(1000 * row["batch"] / part["ms"], rel=0.05)
            assert part["spread"] >= 0
    assert {each["precision"] for each in found["refused"]} >= {"bf16", "int8"}
    shown = "\n".join(lines(found))
    assert "brightness@1" in shown
    assert "onnxruntime  fp32      4" in shown


def test_a_bundle_that_nothing_can_run_says_why(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamclf.bench.bundle_speed.missing_libraries", lambda backend: [backend])
    with pytest.raises(BenchError, match="no inference library is installed"):
        bench_bundle(bundle, backend=None, precision=None, max_batch=1, seconds=0.01)
    monkeypatch.undo()
    with pytest.raises(BenchError, match=r"nothing here can run it: .*no encoder\.int8\.onnx"):
        bench_bundle(bundle, backend=None, precision="int8", max_batch=1, seconds=0.01)


# What processes take.


def test_a_process_is_metered_with_its_name_and_its_work() -> None:
    import os

    meter = UsageSampler(os.getpid())
    meter.sample()
    began = time.process_time()
    while time.process_time() - began < 0.1:
        pass
    meter.sample()
    (usage,) = [usage for usage in meter.usages if usage.pid == os.getpid()]
    assert usage.cpu_s[-1] - usage.cpu_s[0] >= 0.08
    assert usage.rss_mb[-1] > 10
    assert usage.slope_mb_per_h is None, "two samples in a moment have no slope"
    assert process_cpu_s(os.getpid()) >= usage.cpu_s[0]
    assert process_cpu_s(2**22 + 1) == 0


def test_memorys_slope_is_that_of_the_line_through_it() -> None:
    from streamclf.bench.service.process_usage import ProcessUsage

    at_s = [float(i) for i in range(100)]
    usage = ProcessUsage(
        name="hub", pid=1, at_s=at_s, rss_mb=[50 + i / 3600 for i in at_s], cpu_s=[i / 4 for i in at_s]
    )
    assert usage.slope_mb_per_h == pytest.approx(1.0)
    assert usage.cpu_s_per_s == pytest.approx(0.25)


def test_stages_count_what_runs_inside_them_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0

    def clock() -> int:
        return now

    monkeypatch.setenv("STREAMCLF_STAGES", str(tmp_path))
    stages = open_stages("capture-door", clock=clock)
    for item in stages.through("decode", range(3)):
        now += 1000  # nobody's, not the decoder's
        with stages("convert"):
            now += 10 + item
            with stages("ring", 4):
                now += 100
            now += 1
    (found,) = read_stages(tmp_path).values()
    assert found["convert"] == (10 + 11 + 12 + 3, 3)
    assert found["ring"] == (300, 12)
    assert found["decode"] == (0, 3)
    assert list(stages.through("encode", [])) == []
    (found,) = read_stages(tmp_path).values()
    assert found["encode"] == (0, 0), "a source's end is no item"
    assert isinstance(stages, CountedStages)
    assert list(found) == list(STAGES)


def test_nobody_counts_where_nobody_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STREAMCLF_STAGES", raising=False)
    stages = open_stages("capture-door")
    assert type(stages) is Stages
    source = iter([1])
    assert stages.through("decode", source) is source
    with stages("ring"):
        pass


# Bad input.


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "model=nowhere: no such directory"),
        (["nowhere.yaml"], "nowhere.yaml: cannot be read"),
        (["--streams", "0"], "'--streams'"),
        (["--streams", "1", "--size", "12"], "--size 12: like 1280x720"),
        (["--streams", "1", "--size", "10x10"], "64x64 to 7680x4320"),
        (["--streams", "1", "--fps", "0"], "--fps 0: 1 to 240"),
        (["--hop", "2"], "--hop 2: give --streams"),
        (["--size", "640x360"], "--size 640x360: give --streams"),
        (["--suite", "cpu"], "'cpu' is not"),
        (["--suite", "gpu", "--streams", "2"], "leave out cameras"),
    ],
)
def test_wrong_usage_is_one_line_and_code_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _main(["bench", *arguments]) == 2
    told = capsys.readouterr()
    assert message in told.err
    assert told.out == ""
    assert len(told.err.strip().splitlines()) == 1


def test_json_is_one_object_and_nothing_else(bundle: Bundle, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    arguments = ["--backend", "onnxruntime", "--precision", "fp32", "--max-batch", "1", "--seconds", "0.05", "--json"]
    assert _main(["bench", str(bundle.path), *arguments]) == 0
    (row,) = json.loads(capfdbinary.readouterr().out)["results"]
    assert row["batch"] == 1
