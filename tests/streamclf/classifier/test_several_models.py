"""Several models on one encoder: each chunk is encoded once, and each model sees what it would see alone."""

from __future__ import annotations

import gc
import os
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.bundles import expected_logits, make_brightness_bundle, make_other_head, other_logits
from support.classifier_rig import Camera, Posted, drain
from support.gpu_double import double_platform
from support.hub_process import wait_until
from support.slow_engine import Rig, answer

import engines.backends.tensorrt
import engines.opening
import engines.serving
from engines.activation import softmax
from engines.bundle import Bundle
from engines.errors import EngineInputError
from engines.group import GroupOptions
from engines.serving import ServingGroup, open_serving
from streamclf.classifier.classifier import Classifier
from streamclf.classifier.feed import bank_slots
from streamclf.classifier.feed_registry import FeedRegistry
from streamclf.classifier.loop import ClassifierLoop
from streamclf.config.actions import ActionConfig, StreamActions
from streamclf.config.classify import HeadSettings, StreamSettings
from streamclf.runtime.child import ChildControl
from streamclf.runtime.control_channel import ControlMessage
from streamclf.runtime.jobs import ClassifierChange, FeedJoin, FeedUpdate, ModelReport

ALWAYS = ActionConfig(on=0.01, off=0.001, min_s=0, smooth_s=0)
"""An action that runs whenever its label has a probability."""


@pytest.fixture(scope="module")
def levels(tmp_path_factory: pytest.TempPathFactory, brightness: Bundle) -> Bundle:
    return make_other_head(tmp_path_factory.mktemp("levels") / "levels", brightness)


@pytest.fixture(scope="module")
def brightness(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_brightness_bundle(tmp_path_factory.mktemp("brightness") / "brightness")


Open = Callable[[dict[str, Bundle]], ServingGroup]


@pytest.fixture(params=["onnxruntime", "tensorrt"])
def open_(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Open]:
    """Open groups on an engine that computes at once, and on one that queues its work: TensorRT's, on the double."""
    monkeypatch.setenv("STREAMCLF_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(engines.backends.tensorrt, "load_platform", double_platform)
    monkeypatch.setattr(engines.opening, "missing_libraries", lambda backend: [])
    monkeypatch.setattr(engines.backends.tensorrt, "SLOW_TO_BUILD", False)
    opened: list[ServingGroup] = []

    def open_group(bundles: dict[str, Bundle]) -> ServingGroup:
        for bundle in bundles.values():  # so that nothing has to be built in another process
            engines.opening.open_engine(bundle, backend=request.param, precision="fp32", max_batch=8).close()
        slots = 4 * bank_slots(next(iter(bundles.values())).spec)
        options = GroupOptions(backend=request.param, precision="fp32", max_batch=8, bank_slots=slots, threads=1)
        opened.append(open_serving(bundles, options))
        return opened[-1]

    yield open_group
    for serving in opened:
        serving.close()
        serving.group.close()


def heads(*models: str, **actions: ActionConfig) -> dict[str, HeadSettings]:
    return {model: HeadSettings(actions=StreamActions(labels=actions)) for model in models}


def serve(serving: ServingGroup, *cameras: Camera) -> tuple[Classifier, Posted]:
    posted = Posted()
    return Classifier(serving, [camera.feed for camera in cameras], posted), posted  # type: ignore[arg-type]


def predictions(posted: Posted) -> dict[tuple[str, str | None, str | None], list[dict[str, Any]]]:
    """Return the bodies of the predictions by (stream, region, name of the model)."""
    found = defaultdict(list)
    for draft in posted.drafts:
        if draft.type == "prediction":
            body = dict(draft.body)
            found[draft.stream, body.get("region"), body.get("model_name")].append(body)
    return found


def comparable(body: dict[str, Any]) -> dict[str, Any]:
    """Leave out what a model does not decide: times and its name."""
    return {key: value for key, value in body.items() if key not in ("latency_ms", "model_name")}


def play(camera: Camera, classifier: Classifier, chunks: int) -> None:
    random = np.random.default_rng(7)
    for _ in range(chunks):
        if random.random() < 0.15:
            camera.gap()
        camera.chunk()
        if random.random() < 0.6:
            drain(classifier)
    drain(classifier)


def test_predictions_equal_those_of_classifiers_of_their_own(open_: Open, brightness: Bundle, levels: Bundle) -> None:
    together = open_({"": brightness, "levels": levels})
    both = Camera("door", together.group, 0, heads=heads("", "levels"))
    classifier, posted = serve(together, both)
    encoded = count_encodes(together)
    play(both, classifier, 40)
    found = predictions(posted)
    assert set(found) == {("door", None, None), ("door", None, "levels")}
    assert sum(encoded) == 40  # once for both models
    for name, bundle in (("", brightness), ("levels", levels)):
        alone = open_({name: bundle})
        camera = Camera("door", alone.group, 0, heads=heads(name))
        single, expected = serve(alone, camera)
        play(camera, single, 40)
        want = predictions(expected)["door", None, name or None]
        assert [comparable(body) for body in found["door", None, name or None]] == list(map(comparable, want))
        assert len(want) > 10


def count_encodes(serving: ServingGroup) -> list[int]:
    """Return a list to which each encode adds its number of chunks."""
    owner: Any = serving.group.owner
    encode, counts = owner.encode, []

    def counted(frames: Any, slots: Any) -> None:
        counts.append(len(slots))
        encode(frames, slots)

    owner.encode = counted
    return counts


def test_feeds_have_their_own_models_regions_and_actions(open_: Open, brightness: Bundle, levels: Bundle) -> None:
    serving = open_({"": brightness, "levels": levels})
    bright = {"": HeadSettings(actions=StreamActions(labels={"bright": ALWAYS}))}
    high = {"levels": HeadSettings(actions=StreamActions(labels={"high": ALWAYS}))}
    cameras = [
        Camera("door", serving.group, 0, heads=bright | high),
        Camera("door", serving.group, 1, name="door/gate", region="gate", heads=high),
        Camera("yard", serving.group, 2, heads=heads("", "unknown")),
    ]
    classifier, posted = serve(serving, *cameras)
    for camera in cameras:
        for _ in range(6):
            camera.chunk()
            drain(classifier)
    classifier.finish(time.monotonic())
    found = {view: len(bodies) for view, bodies in predictions(posted).items()}
    assert found == {
        ("door", None, None): 3, ("door", None, "levels"): 3, ("door", "gate", "levels"): 3, ("yard", None, None): 3
    }  # fmt: skip
    for draft in posted.drafts:
        assert draft.body.get("region", "x") != ""  # absent instead of empty
        assert draft.body.get("model_name", "x") != ""
    assert actions(posted) == {
        ("door", None, None, "bright"): ["start", "end"],
        ("door", None, "levels", "high"): ["start", "end"],
        ("door", "gate", "levels", "high"): ["start", "end"],
    }


def actions(posted: Posted) -> dict[tuple[Any, ...], list[str]]:
    """Return the phases of each kind of action, without its updates."""
    found = defaultdict(list)
    for draft in posted.drafts:
        body = draft.body
        if draft.type == "action" and body["phase"] != "update":
            found[draft.stream, body.get("region"), body.get("model_name"), body["label"]].append(body["phase"])
    return dict(found)


def reasons(posted: Posted, model: str) -> list[str]:
    return [
        draft.body["reason"]
        for draft in posted.drafts
        if draft.type == "action" and draft.body["phase"] == "end" and draft.body.get("model_name") == model
    ]


def test_the_heads_of_a_feed_change_while_it_runs(open_: Open, brightness: Bundle, levels: Bundle) -> None:
    """Running actions of a model that stays go on; those of a model that leaves the feed end."""
    serving = open_({"": brightness, "levels": levels})
    camera = Camera("door", serving.group, 0, heads=heads("", dark=ALWAYS))
    classifier, posted = serve(serving, camera)

    def play_some(count: int) -> None:
        for _ in range(count):
            camera.chunk()
            drain(classifier)

    play_some(5)
    both = heads("", dark=ALWAYS) | heads("levels", low=ALWAYS)
    classifier.update_feed("door", StreamSettings(hop=1), both)
    play_some(5)
    classifier.update_feed("door", StreamSettings(hop=2), heads("", dark=ALWAYS, bright=ALWAYS))
    play_some(6)
    found = predictions(posted)
    assert len(found["door", None, "levels"]) == 5
    starts = [round(body["window"]["start_s"] / 0.2) for body in found["door", None, None]]
    assert starts[:7] == list(range(7))
    assert set(np.diff(starts[7:])) == {2}
    assert actions(posted)["door", None, None, "dark"] == ["start"]
    assert reasons(posted, "levels") == ["stopped"]
    classifier.update_feed("unknown", StreamSettings(), {})  # it has left in the meantime


class LoopRun:
    """A classifier's loop in a thread, controlled as the supervisor does."""

    def __init__(self, serving: ServingGroup, posted: Posted) -> None:
        self.control = ChildControl()
        self.reports: list[ModelReport] = []
        registry = FeedRegistry(serving.group.spec, capacity=4)
        self.classifier = Classifier(serving, (), posted)  # type: ignore[arg-type]
        loop = ClassifierLoop(self.classifier, self.control, registry, report=self.reports.append)
        self._thread = threading.Thread(target=loop.run)
        self._thread.start()

    def __enter__(self) -> LoopRun:
        return self

    def __exit__(self, *_: object) -> None:
        self.control.request_stop()
        self._thread.join(60)
        assert not self._thread.is_alive()

    def send(self, fds: Sequence[int] = (), **change: Any) -> None:
        message = ClassifierChange(descriptors=len(fds), **change)
        self.control.push_change(ControlMessage(message.model_dump_json().encode(), tuple(fds)))


def test_a_model_is_added_and_removed_under_load_without_a_missing_window(
    open_: Open, brightness: Bundle, levels: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamclf.classifier.loop.IDLE_S", 0.02)
    serving, posted = open_({"": brightness}), Posted()
    open_({"levels": levels})
    wrong = make_brightness_bundle(tmp_path / "wrong", corner=4)
    go, entered = threading.Event(), threading.Event()
    open_next = engines.serving.open_next

    def open_slowly(*arguments: Any, **named: Any) -> Any:
        entered.set()
        assert go.wait(60)
        return open_next(*arguments, **named)

    monkeypatch.setattr(engines.serving, "open_next", open_slowly)
    camera = Camera("door", serving.group, 0)
    all_heads = heads("", "wrong") | heads("levels", middle=ALWAYS, low=ALWAYS, high=ALWAYS)

    def feed_chunks(count: int) -> None:
        for _ in range(count):
            camera.chunk()
            os.write(camera.wake_write, b"x")
            done = len(camera.chunks)
            wait_until(lambda done=done: len(windows("", posted)) == max(0, done - 3), "the prediction")  # type: ignore[misc]

    with LoopRun(serving, posted) as run:
        join = FeedJoin(feed="door", stream="door", settings=StreamSettings(), heads=all_heads, resumed=False)
        run.send(camera.fds, join=join)
        feed_chunks(6)
        run.send(add_models={"wrong": wrong.path, "levels": levels.path})
        go.set()
        wait_until(lambda: run.reports != [], "the report of the wrong model")
        assert run.reports[0].model == "wrong"
        assert "is not that of brightness@1" in (run.reports[0].error or "")
        feed_chunks(6)
        wait_until(lambda: len(run.reports) == 2, "the report of the model")
        assert run.reports[1] == ModelReport(model="levels")
        before = len(camera.chunks)
        feed_chunks(6)
        # The bank has the features of the chunks before: its first window is complete with the next chunk.
        wait_until(lambda: len(windows("levels", posted)) >= 6, "the predictions of the new model")
        assert before - 3 in windows("levels", posted)
        run.send(remove_models=["levels"])
        wait_until(lambda: reasons(posted, "levels") != [], "the end of its actions")
        count = len(windows("levels", posted))
        feed_chunks(6)
        assert len(windows("levels", posted)) == count
    assert windows("", posted) == list(range(len(camera.chunks) - 3))
    assert set(reasons(posted, "levels")) == {"stopped"}
    for name, body in [(draft.body.get("model_name"), draft.body) for draft in posted.drafts]:
        if "top" not in body:
            continue
        first = round(body["window"]["start_s"] / 0.2)
        pixels = np.stack(camera.chunks[first : first + 4])
        want = softmax(expected_logits(pixels) if name is None else other_logits(pixels))
        labels = brightness.spec.labels if name is None else levels.spec.labels
        assert dict(body["top"]) == pytest.approx(dict(zip(labels, want.tolist(), strict=True)), abs=1e-4)


def windows(model: str, posted: Posted) -> list[int]:
    """Return the first chunk of each window that a model has classified."""
    return [
        round(draft.body["window"]["start_s"] / 0.2)
        for draft in list(posted.drafts)
        if draft.type == "prediction" and draft.body.get("model_name", "") == model
    ]


def test_a_model_that_is_removed_frees_its_memory(open_: Open, brightness: Bundle, levels: Bundle) -> None:
    serving = open_({"": brightness, "levels": levels})
    camera = Camera("door", serving.group, 0, heads=heads("", "levels"))
    classifier, posted = serve(serving, camera)
    engine: Any = serving.group["levels"]
    held = "_head" if hasattr(engine, "_head") else "_heads"
    assert getattr(engine, held)
    for _ in range(5):
        camera.chunk()
        drain(classifier)
    classifier.remove_model("levels")
    gc.collect()
    assert not getattr(engine, held, None)
    with pytest.raises(EngineInputError, match="closed"):
        engine.classify(np.zeros((1, 4), np.int32))
    count = len(posted.drafts)
    camera.chunk()
    drain(classifier)
    assert len(posted.drafts) == count + 1
    classifier.remove_model("levels")
    classifier.remove_model("never there")


def test_a_model_joins_while_a_better_engine_is_ready(
    open_: Open, brightness: Bundle, levels: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The upgrade lacks the new model, so it must not take over; another one with both is built instead."""
    begun: list[list[str]] = []

    class Never:
        is_ready = False

        def __init__(self, bundles: dict[str, Bundle], *_: object) -> None:
            begun.append(list(bundles))

        def claim(self) -> None: ...

        def cancel(self) -> None:
            begun.append([])

        close = cancel

    monkeypatch.setattr(engines.serving, "EngineUpgrade", Never)
    opened = open_({"": brightness})
    open_({"levels": levels})
    serving = ServingGroup(
        {"": brightness}, engines.serving.OpenedGroup(group=opened.group), GroupOptions(), slow="tensorrt"
    )
    serving.add("levels", levels.path)
    wait_until(lambda: serving.has_changes, "the model")
    serving.poll()
    assert begun == [[""], [], ["", "levels"]]
    serving.close()


# With an engine that takes time by the test's clock


MODELS = ("", "one", "two")


@settings(max_examples=30, deadline=None)
@given(
    chosen=st.lists(st.sets(st.sampled_from(MODELS), min_size=1), min_size=1, max_size=4),
    chunks=st.integers(1, 6),
    batch=st.integers(1, 12),
    gate=st.booleans(),
    load=st.sampled_from([(0.0, 0.0), (0.05, 0.01), (0.01, 0.06)]),
)
def test_any_choice_of_models_and_any_load_keeps_predictions_right(
    chosen: list[set[str]], chunks: int, batch: int, gate: bool, load: tuple[float, float]
) -> None:
    with Rig(
        streams=len(chosen), chunks=chunks, encode_s=load[0], head_s=load[1], max_batch=batch, models=MODELS,
        heads=lambda i: sorted(chosen[i]), settings=lambda _: {"motion_gate": 0.5 if gate else 0.0},
    ) as rig:  # fmt: skip
        events = rig.run(8)
        cameras = {camera.name: camera for camera in rig.cameras}
        seen: dict[str, Counter[tuple[int, int]]] = defaultdict(Counter)
        for _, stream, body in events:
            camera, model = cameras[stream], body.get("model_name", "")
            first = round(body["window"]["start_s"] * rig.chunks_per_s)
            numbers = {(written[0], written[1]): written[2] for written in camera.written}
            want = answer([numbers[body["window"]["segment"], first + i] for i in range(chunks)])
            assert dict(body["top"])["a"] == pytest.approx((want + MODELS.index(model) / 10) % 1, abs=1e-5)
            seen[f"{stream} {model}"][body["window"]["segment"], first] += 1
        for index, camera in enumerate(rig.cameras):
            each = [seen[f"{camera.name} {model}"] for model in chosen[index]]
            assert all(one == each[0] for one in each)  # all models of a feed classify the same windows, once
            assert max(each[0].values(), default=1) == 1
        if load == (0.0, 0.0):
            assert rig.engine.encoded == sum(camera.feed.chunks_read - camera.feed.gated for camera in rig.cameras)
            for index, camera in enumerate(rig.cameras):
                expected = len(camera.written) - chunks + 1 - camera.feed.waiting
                assert all(sum(seen[f"{camera.name} {model}"].values()) == max(0, expected) for model in chosen[index])


def test_the_load_shedder_counts_each_model() -> None:
    """Three heads need three times the time of one: the hops become longer until they fit."""
    hops = {}
    for models in (("",), MODELS):
        with Rig(
            streams=4, chunks=8, encode_s=0.001, head_s=0.03, models=models, settings=lambda _: {"adaptive": True}
        ) as rig:
            rig.run(10)
            later = rig.run(20)
            hops[len(models)] = {body["hop"] for _, _, body in later}
            assert max(body["age_s"] for _, _, body in later) < 0.6
    assert hops == {1: {1}, 3: {4}}


def test_a_model_that_is_gone_no_longer_counts_as_load() -> None:
    with Rig(
        streams=4, chunks=8, encode_s=0.001, head_s=0.03, models=MODELS, settings=lambda _: {"adaptive": True}
    ) as rig:
        rig.run(20)
        for model in ("one", "two"):
            rig.classifier.remove_model(model)
        rig.run(3)
        assert {body["hop"] for _, _, body in rig.run(5)} == {1}


def test_the_update_message_carries_settings_and_heads() -> None:
    update = FeedUpdate(settings=StreamSettings(hop=3), heads=heads("levels", high=ALWAYS))
    change = ClassifierChange.model_validate_json(ClassifierChange(update={"door": update}).model_dump_json())
    assert change.update["door"] == update
