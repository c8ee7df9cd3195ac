"""The classifier's loop with real shared memory and a real engine: rings in, event drafts out."""

import os
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.bundles import expected_logits, make_brightness_bundle
from support.classifier_rig import CHUNK_NS, Camera, Posted, drain, running
from support.gpu_double import double_platform
from support.hub_process import wait_until
from support.serving import serve_engines, upgrade_to

import engines.backends.tensorrt
import engines.opening
from engines.activation import softmax
from engines.errors import EngineInputError
from engines.opening import open_engine
from engines.protocol import Engine
from streamclf.classifier.classifier import Classifier
from streamclf.classifier.feed import CATCH_UP, MAX_BURST, MAX_HELD, bank_slots
from streamclf.classifier.feed_registry import FeedRegistry
from streamclf.classifier.loop import ClassifierLoop
from streamclf.config.actions import ActionConfig, StreamActions
from streamclf.config.classify import HeadSettings, StreamSettings
from streamclf.errors import RingError
from streamclf.runtime.child import ChildControl
from streamclf.runtime.jobs import FeedJoin
from streamclf.windows.ring_progress import ProgressReporter

STREAMS = 3
MAX_BATCH = 8


@pytest.fixture(scope="module", params=["onnxruntime", "tensorrt"])
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """An engine that computes at once, and one that queues its work: TensorRT's, on the double."""
    bundle = make_brightness_bundle(tmp_path_factory.mktemp("bundles") / "brightness")
    slots = STREAMS * bank_slots(bundle.spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STREAMCLF_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(engines.backends.tensorrt, "load_platform", double_platform)
        patch.setattr(engines.opening, "missing_libraries", lambda backend: [])
        engine = open_engine(
            bundle, backend=request.param, precision="fp32", max_batch=MAX_BATCH, bank_slots=slots, threads=1
        )
        assert engine.queues_work == (request.param == "tensorrt")
        yield engine
        engine.close()


def serve(engine: Engine, *cameras: Camera) -> tuple[Classifier, Posted]:
    posted = Posted()
    serving = serve_engines({"": engine})
    return Classifier(serving, [camera.feed for camera in cameras], posted), posted  # type: ignore[arg-type]


def probability(body: dict[str, Any], label: str) -> float:
    return dict(body["top"])[label]


def test_each_window_has_the_probabilities_of_the_whole_window_across_gaps_and_batches(engine: Engine) -> None:
    cameras = [Camera(f"cam{i}", engine, i) for i in range(STREAMS)]
    classifier, posted = serve(engine, *cameras)
    random = np.random.default_rng(1)
    for _ in range(60):
        for camera in cameras:
            for _ in range(int(random.integers(0, MAX_BURST))):
                if random.random() < 0.1:
                    camera.gap()
                camera.chunk()
        drain(classifier)
    for camera in cameras:
        bodies = posted.of(camera.feed.stream)
        assert len(bodies) > 20
        assert not camera.feed.drops
        for body, (segment, first, row) in zip(bodies, expected_windows(camera), strict=True):
            assert body["window"]["segment"] == segment
            assert body["window"]["start_s"] == pytest.approx(first * CHUNK_NS / 1e9)
            assert probability(body, "bright") == pytest.approx(float(row[1]), abs=1e-4)


def test_chunks_are_uploaded_while_the_device_computes_the_batch_before(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An engine that queues its work gets the next chunks before its result is taken; the last result never waits."""
    calls: list[str] = []
    encode, submit = engine.encode, engine.submit

    def note_encode(*arguments: Any) -> None:
        calls.append("encode")
        encode(*arguments)

    def note_submit(windows: Any) -> Any:
        calls.append("submit")
        take = submit(windows)

        def note_take() -> Any:
            calls.append("take")
            return take()

        return note_take

    monkeypatch.setattr(engine, "encode", note_encode)
    monkeypatch.setattr(engine, "submit", note_submit)
    camera = Camera("cam", engine, 0)
    classifier, posted = serve(engine, camera)
    for _ in range(6):
        camera.chunk()
        classifier.step()
    drain(classifier)
    assert len(posted.of("cam")) == 3
    if engine.queues_work:
        assert calls[3:] == ["encode", "submit", "encode", "take", "submit", "encode", "take", "submit", "take"]
    else:
        assert calls[3:] == ["encode", "submit", "take"] * 3


def expected_windows(camera: Camera) -> Iterator[tuple[int, int, np.ndarray]]:
    """Yield (segment, index of the first chunk, probabilities) of each four consecutive chunks of one segment."""
    for i in range(3, len(camera.history)):
        (first_segment, first), (segment, index) = camera.history[i - 3], camera.history[i]
        if first_segment == segment and index - first == 3:
            yield segment, first, softmax(expected_logits(np.stack(camera.chunks[i - 3 : i + 1])))


def test_a_window_counts_its_duplicates_and_corrupt_frames(engine: Engine) -> None:
    camera = Camera("cam", engine, 0)
    classifier, posted = serve(engine, camera)
    camera.chunk(duplicates=1)
    camera.chunk(corrupt=2)
    camera.chunk()
    camera.chunk(duplicates=1)
    camera.chunk()
    drain(classifier)
    first, second = posted.of("cam")
    assert (first["window"]["frames"], first["window"]["duplicates"], first["window"]["corrupt"]) == (8, 2, 2)
    assert (second["window"]["duplicates"], second["window"]["corrupt"]) == (1, 2)
    assert first["model"] == "brightness@1"
    assert posted.drafts[0].captured_ns == camera.captured_ns[3]
    assert posted.drafts[0].type == "prediction"
    assert set(first["latency_ms"]) == {"encode", "classify"}


def test_a_longer_hop_yields_fewer_predictions(engine: Engine) -> None:
    camera = Camera("cam", engine, 0, hop=3)
    classifier, posted = serve(engine, camera)
    for _ in range(12):
        camera.chunk()
        drain(classifier)
    assert [round(body["window"]["start_s"], 1) for body in posted.of("cam")] == [0.0, 0.6, 1.2]


def test_a_chunk_waits_for_the_other_streams_and_is_encoded_with_theirs(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamclf.classifier.batching.ACTIVE_S", 3600.0)  # however slow this machine is
    batches: list[int] = []
    encode = engine.encode
    monkeypatch.setattr(engine, "encode", lambda chunks, slots: (batches.append(len(slots)), encode(chunks, slots)))
    one, other = cameras = [Camera("one", engine, 0), Camera("other", engine, 1)]
    classifier, _ = serve(engine, *cameras)
    for camera in cameras:  # both streams are active from the beginning
        camera.chunk()
        os.write(camera.wake_write, b"\1")
    with running(classifier, max_wait_s=60.0):
        wait_until(lambda: all(camera.feed.waiting == 0 for camera in cameras), "the first chunks to be read")
        before = len(batches)
        for camera in (one, other):
            assert len(batches) == before
            for _ in range(MAX_HELD):
                camera.chunk()
            os.write(camera.wake_write, b"\1")
        wait_until(lambda: len(batches) > before, "the batch")
        assert batches[before:] == [2 * MAX_HELD]


def test_the_predictions_of_a_batch_are_one_post(engine: Engine) -> None:
    cameras = [Camera(name, engine, index) for index, name in enumerate("abc")]
    classifier, posted = serve(engine, *cameras)
    for _ in range(engine.spec.chunks + 1):
        for camera in cameras:
            camera.chunk()
        drain(classifier)
    assert posted.posts == [3, 3]
    assert [draft.stream for draft in posted.drafts] == [*"abc", *"abc"]


def test_a_chunk_without_a_wake_byte_is_found(engine: Engine) -> None:
    """A paused stream that is served again has such chunks."""
    camera = Camera("cam", engine, 0)
    classifier, _ = serve(engine, camera)
    with running(classifier):
        for _ in range(2):
            for _ in range(MAX_HELD):
                camera.chunk()
            wait_until(lambda: camera.feed.waiting == 0, "the chunks to be read")


def test_a_chunk_that_completes_no_window_is_encoded_with_the_one_that_does(engine: Engine) -> None:
    """Windows of 4 chunks, every 2: the first is due with chunk 3, the next ones with 5 and 7."""
    camera = Camera("cam", engine, 0, hop=2)
    classifier, posted = serve(engine, camera)
    due = []
    for _ in range(8):
        camera.chunk()
        due.append(camera.feed.due_s(max_held=4))
        if due[-1] is not None:
            drain(classifier)
    captured_s = [time_ns / 1e9 for time_ns in camera.captured_ns]
    # The first chunk is due at once; after it at most two chunks wait.
    assert due == [captured_s[0], None, captured_s[2], captured_s[3], None, captured_s[5], None, captured_s[7]]
    assert len(posted.of("cam")) == 3


def test_where_encoding_is_slow_no_chunk_waits_for_another(engine: Engine) -> None:
    camera = Camera("cam", engine, 0, hop=2)
    classifier, _ = serve(engine, camera)
    for i in range(6):
        camera.chunk()
        assert camera.feed.due_s(max_held=1) == camera.captured_ns[i] / 1e9
        drain(classifier)
    assert camera.feed.due_s(max_held=1) is None


def test_a_chunk_of_a_file_at_full_speed_never_waits(engine: Engine) -> None:
    read_fd, write_fd = os.pipe()
    camera = Camera("film", engine, 0, hop=4, progress=ProgressReporter(write_fd))
    classifier, _ = serve(engine, camera)
    for i in range(6):
        camera.chunk()
        assert camera.feed.due_s(max_held=4) == camera.captured_ns[i] / 1e9
        drain(classifier)
    os.close(read_fd)
    os.close(write_fd)


def test_a_busy_stream_does_not_starve_the_others(engine: Engine) -> None:
    busy, quiet = Camera("busy", engine, 0), Camera("quiet", engine, 1)
    classifier, _ = serve(engine, busy, quiet)
    for _ in range(8):
        busy.chunk()
    quiet.chunk()
    classifier.step()
    assert quiet.feed.chunks_read == 1
    assert busy.feed.chunks_read == MAX_BURST


def test_overload_drops_the_oldest_chunks_and_counts_them(engine: Engine) -> None:
    camera = Camera("cam", engine, 0)
    classifier, posted = serve(engine, camera)
    for _ in range(30):
        camera.chunk()
    drain(classifier)
    assert camera.feed.drops["overload"] == 29
    assert posted.of("cam") == []  # one chunk is no window, and no window spans dropped chunks
    for _ in range(3):
        camera.chunk()
    drain(classifier)
    (body,) = posted.of("cam")
    assert body["window"]["start_s"] == pytest.approx(29 * CHUNK_NS / 1e9)
    assert body["dropped"] == {"overload": 29}


def test_a_backlog_drops_windows_before_it_drops_chunks(engine: Engine) -> None:
    camera = Camera("cam", engine, 0)
    classifier, posted = serve(engine, camera)
    waiting = CATCH_UP + 4
    for _ in range(waiting):
        camera.chunk()
    drain(classifier)
    complete = waiting - 3
    assert camera.feed.drops == {"window": complete - CATCH_UP}
    assert len(posted.of("cam")) == CATCH_UP


def test_the_loop_wakes_by_event_and_ends_on_request(engine: Engine) -> None:
    camera = Camera("cam", engine, 0)
    classifier, posted = serve(engine, camera)
    with running(classifier) as thread:
        for _ in range(4):
            camera.chunk()
            os.write(camera.wake_write, b"x")
        assert posted.arrived.wait(60)
    assert not thread.is_alive()


def test_chunks_in_the_ring_are_classified_before_the_end(engine: Engine, tmp_path: Path) -> None:
    camera = Camera("cam", engine, 0)
    classifier, posted = serve(engine, camera)
    for _ in range(4):
        camera.chunk()
    control = ChildControl()
    control.request_stop()
    ClassifierLoop(classifier, control).run()
    assert len(posted.of("cam")) == 1


def join_of(camera: Camera, hop: int = 1) -> FeedJoin:
    settings = StreamSettings(hop=hop)
    name = camera.feed.stream
    return FeedJoin(feed=name, stream=name, settings=settings, heads={"": HeadSettings()}, resumed=False)


def starts(posted: Posted, stream: str) -> list[float]:
    return [round(body["window"]["start_s"], 1) for body in posted.of(stream)]


def test_streams_join_and_leave_and_other_predictions_stay_right(engine: Engine) -> None:
    stays, goes, comes = (Camera(name, engine, 0) for name in ("stays", "goes", "comes"))
    classifier, posted = serve(engine)
    registry = FeedRegistry(engine.spec, capacity=2)
    for camera in (goes, stays):
        classifier.add_feed(registry.add(join_of(camera), camera.fds))
    for round_ in range(20):
        stays.chunk()
        (goes if round_ < 10 else comes).chunk()
        if round_ == 9:
            classifier.remove_feed("goes")  # its last chunk has not been classified yet
            registry.remove("goes")
            assert all(closed(fd) for fd in goes.fds)
            classifier.add_feed(registry.add(join_of(comes), comes.fds))
        drain(classifier)
    assert starts(posted, "stays") == [round(0.2 * i, 1) for i in range(17)]
    assert starts(posted, "goes") == [round(0.2 * i, 1) for i in range(7)]
    assert starts(posted, "comes") == [round(0.2 * i, 1) for i in range(7)]
    for camera in (stays, goes, comes):
        for body, (_, first, row) in zip(posted.of(camera.feed.stream), expected_windows(camera), strict=True):
            assert body["window"]["start_s"] == pytest.approx(first * CHUNK_NS / 1e9)
            assert probability(body, "bright") == pytest.approx(float(row[1]), abs=1e-4)
    assert not any(closed(fd) for fd in stays.fds)


def test_a_full_bank_refuses_a_stream_and_closes_its_descriptors(engine: Engine) -> None:
    first, second = Camera("first", engine, 0), Camera("second", engine, 1)
    registry = FeedRegistry(engine.spec, capacity=1)
    registry.add(join_of(first), first.fds)
    with pytest.raises(RingError, match="second with 2 descriptors cannot join"):
        registry.add(join_of(second), second.fds)
    assert all(closed(fd) for fd in second.fds)


def test_another_hop_applies_without_a_gap(engine: Engine) -> None:
    camera = Camera("cam", engine, 0)
    classifier, posted = serve(engine, camera)
    for hop in (1, 3, 1):
        classifier.update_feed("cam", StreamSettings(hop=hop), {"": HeadSettings()})
        for _ in range(7):
            camera.chunk()
            drain(classifier)
    assert starts(posted, "cam") == [0.0, 0.2, 0.4, 0.6, 1.2, 1.8, *(round(0.2 * i, 1) for i in range(11, 18))]


def closed(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return True
    return False


def test_an_action_ends_with_its_hours_although_its_stream_is_silent(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = [datetime(2026, 1, 2, 17, 59, tzinfo=timezone.utc).timestamp()]
    monkeypatch.setattr("streamclf.classifier.event_publisher.time.time", lambda: now_s[0])
    monkeypatch.setattr("streamclf.classifier.loop.IDLE_S", 0.02)
    each = ActionConfig(on=0.01, off=0.0, min_s=0, active=("fri 08:00-18:00",))
    actions = StreamActions(labels={"bright": each, "dark": each}, timezone="UTC")
    camera = Camera("cam", engine, 0, heads={"": HeadSettings(actions=actions)})
    classifier, posted = serve(engine, camera)
    with running(classifier):
        for _ in range(4):
            camera.chunk()
            os.write(camera.wake_write, b"x")
        wait_until(lambda: phases(posted) != [], "the start")
        assert {phase for phase, _ in phases(posted)} == {"start"}
        now_s[0] += 60
        wait_until(lambda: phases(posted)[-1][0] == "end", "the end of the hours")
        assert {reason for phase, reason in phases(posted) if phase == "end"} == {"schedule"}
    counts = [phase for phase, _ in phases(posted)]
    assert counts.count("start") == counts.count("end") > 0


def phases(posted: Posted) -> list[tuple[str, str | None]]:
    bodies = [draft.body for draft in list(posted.drafts) if draft.type == "action"]
    return [(body["phase"], body.get("reason")) for body in bodies]


def test_another_engine_continues_in_the_middle_of_a_window(engine: Engine, tmp_path: Path) -> None:
    """This happens when TensorRT's plan is ready: no window is lost, and the new bank has all features."""
    bundle = make_brightness_bundle(tmp_path / "brightness")
    first = open_engine(bundle, backend="openvino", precision="fp32", max_batch=MAX_BATCH, bank_slots=engine.bank_slots)
    second = open_engine(bundle, backend="onnxruntime", max_batch=2, bank_slots=engine.bank_slots)
    cameras = [Camera("a", first, 0), Camera("b", first, 1)]
    serving = serve_engines({"": first})
    posted = Posted()
    classifier = Classifier(serving, [camera.feed for camera in cameras], posted)  # type: ignore[arg-type]
    for count in (6, 3):  # windows of 4 chunks: those of the second round begin before the switch
        for camera in cameras:
            for _ in range(count):
                camera.chunk()
                drain(classifier)
        if count == 6:
            upgrade_to(serving, {"": second})
            assert classifier.update_engines() == []
    with pytest.raises(EngineInputError, match="the engine is closed"):
        first.classify(np.zeros((1, 4), np.int32))
    for camera in cameras:
        bodies = posted.of(camera.feed.stream)
        assert [body["engine"].split()[0] for body in bodies] == ["openvino"] * 3 + ["onnxruntime"] * 3
        assert {body["model"] for body in bodies} == {"brightness@1"}
        for end, body in enumerate(bodies, start=4):
            expected = softmax(expected_logits(np.stack(camera.chunks[end - 4 : end])))[1]
            assert probability(body, "bright") == pytest.approx(expected, abs=1e-4)
    classifier.close()


def test_the_loop_switches_to_a_better_engine_between_batches(engine: Engine, tmp_path: Path) -> None:
    bundle = make_brightness_bundle(tmp_path / "brightness")
    better = open_engine(bundle, backend="onnxruntime", max_batch=4, bank_slots=engine.bank_slots)
    first = open_engine(bundle, backend="openvino", precision="fp32", max_batch=4, bank_slots=engine.bank_slots)
    camera = Camera("a", first, 0)
    serving, posted = serve_engines({"": first}), Posted()
    classifier = Classifier(serving, [camera.feed], posted)  # type: ignore[arg-type]
    upgrade_to(serving, {"": better})
    with running(classifier):
        for _ in range(5):
            camera.chunk()
        os.write(camera.wake_write, b"x")
        wait_until(lambda: len(posted.drafts) == 2, "two predictions")
        camera.chunk()
        os.write(camera.wake_write, b"x")
        wait_until(lambda: len(posted.drafts) == 3, "the third")
    assert posted.of("a")[-1]["engine"].startswith("onnxruntime")
    classifier.close()
