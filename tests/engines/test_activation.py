"""Probabilities are accurate for logits of any size, and the present labels follow the activation of the model."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from support.bundles import expected_logits, make_brightness_bundle, random_chunks

from engines.activation import present_labels, sigmoid, softmax
from engines.backends.names import Backend
from engines.bundle import Bundle, write_spec
from engines.errors import ParityError
from engines.group import GroupOptions, open_group
from engines.opening import open_engine
from engines.parity import TOLERANCE, compare_with_golden
from engines.protocol import Engine


@pytest.fixture
def independent(tmp_path: Path) -> Bundle:
    """The brightness bundle with labels that do not exclude each other: about 128, both are present."""
    thresholds = {"dark": 0.25, "bright": 0.25}
    return make_brightness_bundle(tmp_path / "b", activation="sigmoid", thresholds=thresholds)


@pytest.fixture
def engine(independent: Bundle, backend: Backend) -> Iterator[Engine]:
    engine = open_engine(independent, backend=backend, precision="fp32", max_batch=4, threads=1)
    yield engine
    engine.close()


def test_sigmoid_is_accurate_for_logits_of_any_size() -> None:
    logits = np.array([-np.inf, -200, -30, -1, 0, 1, 30, 200, np.inf], np.float32)
    exact = 1 / (1 + np.exp(-logits.astype(np.float64)))
    with np.errstate(all="raise", under="ignore"):
        probabilities = sigmoid(logits)
    assert probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities, exact, rtol=1e-5, atol=1e-38)
    assert np.isnan(sigmoid(np.array([np.nan], np.float32)))[0]


def test_each_backend_gives_independent_probabilities(engine: Engine) -> None:
    """Both labels are present in a window between dark and bright; softmax could not say so for both."""
    chunks = random_chunks(4)
    engine.encode(chunks, np.arange(4, dtype=np.int32))
    actual = engine.classify(np.arange(4, dtype=np.int32)[None])[0]
    expected = sigmoid(expected_logits(chunks))
    np.testing.assert_allclose(actual, expected, atol=TOLERANCE["fp32"])
    engine.encode(np.full_like(chunks, 130), np.arange(4, dtype=np.int32))
    between = engine.classify(np.arange(4, dtype=np.int32)[None])[0]
    assert present_labels(engine.spec, between) == [1, 0]
    engine.encode(np.full_like(chunks, 255), np.arange(4, dtype=np.int32))
    assert present_labels(engine.spec, engine.classify(np.arange(4, dtype=np.int32)[None])[0]) == [1]


def test_a_lower_precision_keeps_the_contract(independent: Bundle, backend: Backend) -> None:
    """The golden clip is checked after the sigmoid, also in the precision that `auto` chooses."""
    engine = open_engine(independent, backend=backend, precision="auto", max_batch=4, threads=1)
    chunks = random_chunks(4, seed=2)
    engine.encode(chunks, np.arange(4, dtype=np.int32))
    actual = engine.classify(np.arange(4, dtype=np.int32)[None])[0]
    engine.close()
    np.testing.assert_allclose(actual, sigmoid(expected_logits(chunks)), atol=TOLERANCE[engine.precision])


def test_two_heads_of_one_encoder_have_their_own_activations(
    independent: Bundle, brightness: Bundle, backend: Backend
) -> None:
    options = GroupOptions(backend=backend, precision="fp32", max_batch=4, bank_slots=4, threads=1)
    group = open_group({"one": brightness, "several": independent}, options).group
    chunks, window = random_chunks(4, seed=3), np.arange(4, dtype=np.int32)[None]
    group.encode(chunks, window[0])
    found = {name: group[name].classify(window)[0] for name in ("one", "several")}
    group.close()
    np.testing.assert_allclose(found["one"], softmax(expected_logits(chunks)), atol=TOLERANCE["fp32"])
    np.testing.assert_allclose(found["several"], sigmoid(expected_logits(chunks)), atol=TOLERANCE["fp32"])


def test_present_labels_may_be_none_and_come_by_probability(independent: Bundle) -> None:
    assert present_labels(independent.spec, np.array([0.2, 0.2499], np.float32)) == []
    assert present_labels(independent.spec, np.array([0.25, 0.9], np.float32)) == [1, 0]
    assert present_labels(independent.spec, np.array([np.nan, 0.5], np.float32)) == [1]


@pytest.mark.parametrize(("share", "agrees"), [(0.1, True), (0.4, False)])
def test_a_label_that_changes_at_its_threshold_refuses_the_engine(
    independent: Bundle, backend: Backend, share: float, agrees: bool
) -> None:
    """PyTorch has `dark` above its threshold by a share of the tolerance, and the engine has it as much below."""
    step = share * TOLERANCE["fp32"]
    logits = independent.golden().logits.astype(np.float64)
    actual = expected_logits(independent.golden().frames).astype(np.float64)
    threshold = 1 / (1 + np.exp(-actual[0])) + step
    logits[0] = np.log((threshold + step) / (1 - threshold - step))
    np.savez(independent.path / "golden.npz", frames=independent.golden().frames, logits=logits.astype(np.float32))
    fields = independent.spec.model_dump(exclude={"files"}) | {"thresholds": {"dark": threshold, "bright": 0.5}}
    bundle = write_spec(independent.path, fields)
    if agrees:
        engine = open_engine(bundle, backend=backend, precision="fp32")
        assert compare_with_golden(engine, bundle.golden()).max_dp < TOLERANCE["fp32"]
        engine.close()
    else:
        with pytest.raises(ParityError, match=r"golden clip gives no label, PyTorch dark; max \|dp\| [78]\."):
            open_engine(bundle, backend=backend, precision="fp32")
