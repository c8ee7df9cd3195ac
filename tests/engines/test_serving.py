"""Models come and go while a group of engines serves."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.bundles import expected_logits, make_brightness_bundle, make_other_head, other_logits, random_chunks
from support.hub_process import wait_until

import engines.serving
from engines.activation import softmax
from engines.bundle import Bundle
from engines.group import GroupOptions
from engines.serving import ServingChange, ServingGroup, open_serving

WINDOW = np.arange(4, dtype=np.int32)[None]


@pytest.fixture
def serving(brightness: Bundle) -> Iterator[ServingGroup]:
    serving = open_serving({"": brightness}, GroupOptions(backend="onnxruntime", max_batch=4, bank_slots=8, threads=1))
    serving.group.encode(random_chunks(4), WINDOW[0])
    yield serving
    serving.close()
    serving.group.close()


def changes_of(serving: ServingGroup) -> list[ServingChange]:
    wait_until(lambda: serving.has_changes, "a change of the engines")
    return serving.poll()


def test_a_model_serves_once_it_is_open(serving: ServingGroup, brightness: Bundle, tmp_path: Path) -> None:
    levels = make_other_head(tmp_path / "levels", brightness)
    serving.add("levels", levels.path)
    assert "levels" not in serving.group  # until `poll` between two batches
    assert changes_of(serving) == [ServingChange(name="levels")]
    np.testing.assert_allclose(
        serving.group["levels"].classify(WINDOW)[0], softmax(other_logits(random_chunks(4))), atol=1e-4
    )
    assert serving.poll() == []


def test_several_models_are_opened_one_after_the_other(
    serving: ServingGroup, brightness: Bundle, tmp_path: Path
) -> None:
    for name in ("one", "two", "three"):
        serving.add(name, make_other_head(tmp_path / name, brightness).path)
    found = [changes_of(serving) for _ in range(3)]
    assert found == [[ServingChange(name=name)] for name in ("one", "two", "three")]
    assert list(serving.group) == ["", "one", "two", "three"]


def test_a_model_that_cannot_be_opened_is_reported_and_the_others_go_on(
    serving: ServingGroup, brightness: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = serving.group[""].classify(WINDOW)
    other = make_brightness_bundle(tmp_path / "other", corner=4)
    damaged = make_other_head(tmp_path / "damaged", brightness)
    (damaged.path / "head.onnx").write_bytes(b"cut")
    serving.add("absent", tmp_path / "absent")
    serving.add("other", other.path)
    serving.add("damaged", damaged.path)
    errors = [change.error or "" for _ in range(3) for change in changes_of(serving)]
    for error, part in zip(
        errors, ("no such bundle", "its encoder, or the form of", "altered or damaged"), strict=True
    ):
        assert part in error
    out_of_memory = make_other_head(tmp_path / "large", brightness)
    monkeypatch.setattr(engines.serving, "open_next", lambda *_, **__: bytearray(1 << 60))
    serving.add("large", out_of_memory.path)
    (change,) = changes_of(serving)
    assert (change.error or "").startswith(f"{out_of_memory.path}: not enough memory")
    assert list(serving.group) == [""]
    np.testing.assert_array_equal(serving.group[""].classify(WINDOW), before)


def test_the_model_of_a_name_is_replaced_without_a_gap(
    serving: ServingGroup, brightness: Bundle, tmp_path: Path
) -> None:
    """Also the first model, whose engine encodes for the others."""
    levels = make_other_head(tmp_path / "levels", brightness)
    serving.add("", levels.path)
    np.testing.assert_allclose(
        serving.group[""].classify(WINDOW)[0], softmax(expected_logits(random_chunks(4))), atol=1e-4
    )
    changes_of(serving)
    assert serving.group[""].classify(WINDOW).shape == (1, 3)
    serving.add("", brightness.path)
    changes_of(serving)
    assert serving.group[""].classify(WINDOW).shape == (1, 2)
    serving.group.encode(random_chunks(4, seed=2), WINDOW[0])
    np.testing.assert_allclose(
        serving.group[""].classify(WINDOW)[0], softmax(expected_logits(random_chunks(4, seed=2))), atol=1e-4
    )


def test_a_model_that_is_removed_while_it_is_opened_never_serves(
    serving: ServingGroup, brightness: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go, entered, opened = threading.Event(), threading.Event(), []
    open_next = engines.serving.open_next

    def open_later(*arguments: Any, **named: Any) -> Any:
        entered.set()
        assert go.wait(60)
        opened.append(open_next(*arguments, **named))
        return opened[-1]

    monkeypatch.setattr(engines.serving, "open_next", open_later)
    for name in ("levels", "later"):
        serving.add(name, make_other_head(tmp_path / name, brightness).path)
    assert entered.wait(60)
    serving.remove("levels")
    serving.remove("later")  # it was not begun
    go.set()
    assert changes_of(serving) == []
    assert list(serving.group) == [""]
    assert len(opened) == 1
    with pytest.raises(engines.serving.EngineError, match="closed"):
        opened[0].classify(WINDOW)
    serving.remove("unknown")
