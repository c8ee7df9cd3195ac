"""Several models with one encoder: each classifies as it would alone, and the encoder runs once for all of them."""

import gc
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.bundles import (
    expected_logits,
    make_brightness_bundle,
    make_other_head,
    make_reversed,
    other_logits,
    random_chunks,
)
from support.gpu_double import DoubleCuda, double_platform

import engines.backends.tensorrt
import engines.opening
from engines.activation import softmax
from engines.backends.names import Backend
from engines.backends.tensorrt.interface import Platform
from engines.bundle import Bundle, write_spec
from engines.errors import BundleError, EngineError, EngineInputError, ParityError
from engines.group import EngineGroup, GroupOptions, encoder_key, open_group, open_next
from engines.opening import open_engine

MAX_BATCH, SLOTS = 5, 12


@pytest.fixture(scope="module")
def other(brightness: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle with the encoder of `brightness` and three labels of its own."""
    return make_other_head(tmp_path_factory.mktemp("other") / "levels", brightness)


def options(backend: Backend, **changes: Any) -> GroupOptions:
    values: dict[str, Any] = {"precision": "fp32", "max_batch": MAX_BATCH, "bank_slots": SLOTS, "threads": 1}
    return GroupOptions(backend=backend, **values | changes)


def fill(group: EngineGroup, chunks: np.ndarray) -> None:
    for begin in range(0, SLOTS, MAX_BATCH):
        part = chunks[begin : begin + MAX_BATCH]
        group.encode(part, np.arange(begin, begin + len(part), dtype=np.int32))


WINDOWS = np.array([[11, 0, 5, 3], [8, 9, 10, 11]], np.int32)


def test_each_model_gives_the_numbers_that_its_bundle_gives_alone(
    backend: Backend, brightness: Bundle, other: Bundle
) -> None:
    chunks = random_chunks(SLOTS, seed=3)
    group = open_group({"": brightness, "levels": other}, options(backend)).group
    fill(group, chunks)
    for name, bundle, logits in (("", brightness, expected_logits), ("levels", other, other_logits)):
        alone = open_group({name: bundle}, options(backend)).group
        fill(alone, chunks)
        found = group[name].classify(WINDOWS)
        np.testing.assert_array_equal(found, alone[name].classify(WINDOWS))
        np.testing.assert_allclose(found, [softmax(logits(chunks[window])) for window in WINDOWS], atol=1e-4)
        alone.close()
    group.close()


def test_the_built_in_model_and_another_head_give_their_numbers(
    backend: Backend, built_in: Bundle, tmp_path: Path
) -> None:
    """A real model: attention over time, and features that are not a mean."""
    swapped = make_reversed(tmp_path / "swapped", built_in)
    group = open_group({"": built_in, "swapped": swapped}, options(backend, bank_slots=32, max_batch=16)).group
    frames = built_in.golden().frames
    slots = np.arange(len(frames), dtype=np.int32)
    group.encode(frames, slots)
    first = group[""].classify(slots[None])[0]
    np.testing.assert_allclose(group["swapped"].classify(slots[None])[0], first[::-1], atol=1e-6)
    group.close()


def test_a_model_joins_in_the_middle_of_a_window_and_others_stay_the_same(
    backend: Backend, brightness: Bundle, other: Bundle
) -> None:
    chunks = random_chunks(SLOTS, seed=4)
    group = open_group({"": brightness}, options(backend)).group
    fill(group, chunks)
    before = group[""].classify(WINDOWS)
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(open_next(other, group, options(backend), may_build=True)))
    thread.start()
    while thread.is_alive():  # the group serves meanwhile
        np.testing.assert_array_equal(group[""].classify(WINDOWS), before)
    thread.join()
    np.testing.assert_array_equal(group[""].classify(WINDOWS), before)  # the golden clip has not touched the bank
    group.add("levels", found[0])
    np.testing.assert_allclose(
        group["levels"].classify(WINDOWS), [softmax(other_logits(chunks[w])) for w in WINDOWS], atol=1e-4
    )
    take = group[""].submit(WINDOWS), group["levels"].submit(WINDOWS)  # all heads may compute at the same time
    fill_part = random_chunks(1, seed=9)
    group.encode(fill_part, np.array([6], np.int32))  # a slot that no window has
    np.testing.assert_array_equal(take[0](), before)
    assert take[1]().shape == (2, 3)
    group.close()


def test_a_head_is_freed_when_its_model_is_removed_and_the_others_go_on(
    backend: Backend, brightness: Bundle, other: Bundle
) -> None:
    chunks = random_chunks(SLOTS, seed=5)
    group = open_group({"": brightness, "levels": other}, options(backend)).group
    fill(group, chunks)
    before = group["levels"].classify(WINDOWS)
    owner = group.owner
    group.remove("")  # its engine still encodes
    assert list(group) == ["levels"]
    np.testing.assert_array_equal(group["levels"].classify(WINDOWS), before)
    with pytest.raises(EngineInputError, match="its head was freed"):
        owner.classify(WINDOWS)
    changed = random_chunks(1, seed=8)
    group.encode(changed, np.array([11], np.int32))
    assert not np.allclose(group["levels"].classify(WINDOWS), before)
    group.add("", open_next(brightness, group, options(backend)))
    assert group[""].classify(WINDOWS).shape == (2, 2)
    gone = group["levels"]
    group.remove("levels")
    with pytest.raises(EngineInputError, match="closed"):
        gone.classify(WINDOWS)
    group.close()
    group.close()


def test_only_the_owner_of_the_bank_encodes(backend: Backend, brightness: Bundle, other: Bundle) -> None:
    group = open_group({"": brightness, "levels": other}, options(backend)).group
    chunk, slot = random_chunks(1), np.zeros(1, np.int32)
    for call in (
        lambda: group["levels"].encode(chunk, slot),
        lambda: group["levels"].read_features(slot),
        lambda: group["levels"].write_features(np.zeros((1, 3), np.float32), slot),
    ):
        with pytest.raises(EngineInputError, match="shares the bank of another engine"):
            call()
    group.close()


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_the_encoder_is_in_memory_once_on_a_cpu(
    backend: Backend, brightness: Bundle, other: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = engines.opening.load_backend(backend)
    loaded: list[str] = []
    if backend == "openvino":
        load = module._GraphLoader.load  # type: ignore[attr-defined]
        monkeypatch.setattr(
            module._GraphLoader,  # type: ignore[attr-defined]
            "load",
            lambda self, name, path: (loaded.append(path.name), load(self, name, path))[1],
        )
    else:
        open_session = module._open_session  # type: ignore[attr-defined]
        monkeypatch.setattr(
            module, "_open_session", lambda path, *rest: (loaded.append(path.name), open_session(path, *rest))[1]
        )
    open_group({"": brightness, "levels": other}, options(backend)).group.close()
    assert sorted(loaded) == ["encoder.onnx", "head.onnx", "head.onnx"]


@pytest.mark.parametrize("version", ["8.5.3.1", "10.3.0"])
def test_a_gpu_keeps_one_encoder_and_one_bank(
    brightness: Bundle, other: Bundle, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    """In 8.5 each execution has a profile of its own: the head, captured again, must use its execution again."""
    platforms: list[Any] = []

    def load_platform(device: int | None) -> Platform:
        platforms.append(double_platform(version=version))
        return platforms[-1]

    monkeypatch.setattr(engines.backends.tensorrt, "load_platform", load_platform)
    monkeypatch.setattr(engines.opening, "missing_libraries", lambda backend: [])
    group = open_group({"": brightness, "levels": other}, options("tensorrt")).group
    gc.collect()
    first, second = (platform.cuda for platform in platforms)
    assert isinstance(second, DoubleCuda)
    bank, frames = (SLOTS + 1) * 12, MAX_BATCH * 2 * 16 * 16 * 3
    assert not any(block.nbytes in (bank, frames) for block in second.memory.values())
    assert second.pinned_bytes < first.pinned_bytes / 10
    group.remove("levels")
    assert second.closed
    assert not second.memory
    assert second.pinned_bytes == 0
    group.close()
    assert not first.memory


def test_a_model_that_cannot_be_opened_does_not_concern_the_others(
    backend: Backend, brightness: Bundle, other: Bundle, tmp_path: Path
) -> None:
    wrong = make_other_head(tmp_path / "wrong", brightness)
    golden = wrong.golden()
    np.savez(wrong.path / "golden.npz", frames=golden.frames, logits=-golden.logits)
    wrong = write_spec(wrong.path, wrong.spec.model_dump(exclude={"files"}))
    opened = open_group({"bad": wrong, "": brightness, "worse": wrong, "levels": other}, options(backend))
    assert list(opened.group) == ["", "levels"]
    assert set(opened.failed) == {"bad", "worse"}
    assert "golden clip gives" in str(opened.failed["worse"])
    opened.group.close()
    with pytest.raises(ParityError):
        open_group({"bad": wrong}, options(backend))


def test_a_bundle_with_another_encoder_or_form_is_refused(brightness: Bundle, tmp_path: Path) -> None:
    group = open_group({"": brightness}, options("onnxruntime")).group
    wider = make_brightness_bundle(tmp_path / "corner", corner=4)
    slower = make_other_head(tmp_path / "slower", make_brightness_bundle(tmp_path / "slow", fps=5.0))
    for bundle in (wider, slower):
        assert encoder_key(bundle.spec) != encoder_key(brightness.spec)
        with pytest.raises(BundleError, match="is not that of brightness@1"):
            open_next(bundle, group, options("onnxruntime"))
    group.close()
    longer = make_brightness_bundle(tmp_path / "longer", chunks=6)
    first, second = (open_engine(each, backend="onnxruntime", threads=1) for each in (brightness, longer))
    with pytest.raises(EngineInputError, match="cannot share the bank"):
        second.share_bank(first)
    first.close()
    second.close()


def test_auto_opens_all_models_in_fp32_where_one_needs_it(
    brightness: Bundle, other: Bundle, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    check = engines.opening.check_parity

    def refuse_lowered(engine: Any, golden: Any) -> Any:
        if engine.precision != "fp32" and engine.spec.name == "levels":
            raise ParityError("bf16 collapsed", precision="bf16")
        return check(engine, golden)

    monkeypatch.setattr(engines.opening, "check_parity", refuse_lowered)
    monkeypatch.setattr(engines.backends.tensorrt, "load_platform", double_platform)
    monkeypatch.setattr(engines.opening, "missing_libraries", lambda backend: [])
    bundles = {"": brightness, "levels": other}
    opened = open_group(bundles, options("tensorrt", precision="auto"))
    assert not opened.failed
    assert [opened.group[name].precision for name in opened.group] == ["fp32", "fp32"]
    assert "continuing with all models of this encoder in fp32" in caplog.text
    opened.group.close()
    given = open_group(bundles, options("tensorrt", precision="fp16"))
    assert isinstance(given.failed["levels"], EngineError)  # a precision that was asked for is kept
    given.group.close()
