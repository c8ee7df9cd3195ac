"""Every backend, fed chunk by chunk, gives the probabilities of PyTorch for whole windows of random clips."""

import numpy as np
import pytest
from support.gpu_double import TRAITS, double_platform
from support.vivit import TINY, make_vivit_bundle, pytorch_probabilities

import engines.backends.tensorrt
import engines.opening
from engines.bundle import Bundle
from engines.errors import BackendMissingError
from engines.opening import open_engine
from engines.parity import TOLERANCE
from training.models.compact_vivit import FactorisedViViT

MAX_BATCH = 6


@pytest.fixture(scope="module")
def model_and_bundle(tmp_path_factory: pytest.TempPathFactory) -> tuple[FactorisedViViT, Bundle]:
    return make_vivit_bundle(tmp_path_factory.mktemp("bundles") / "tiny", TINY)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("backend", ["openvino", "onnxruntime", *(f"tensorrt {version}" for version in TRAITS)])
def test_random_clips_give_pytorchs_probabilities(
    model_and_bundle: tuple[FactorisedViViT, Bundle],
    backend: str,
    precision: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name, _, version = backend.partition(" ")
    if version:
        monkeypatch.setattr(engines.backends.tensorrt, "load_platform", lambda _: double_platform(version=version))
        monkeypatch.setattr(engines.opening, "missing_libraries", lambda name: [])
        if precision == "bf16" and "bf16" in TRAITS[version].precisions:
            pytest.skip("the double of TensorRT uses ONNX Runtime, which has no BF16 on a CPU")
    model, bundle = model_and_bundle
    try:
        engine = open_engine(
            bundle,
            backend=name,  # type: ignore[arg-type]
            precision=precision,  # type: ignore[arg-type]
            max_batch=MAX_BATCH,
            bank_slots=20,
        )
    except BackendMissingError as error:
        assert f"precision={precision}" in str(error)  # noqa: PT017 - the precisions depend on the CPU
        pytest.skip(str(error))
    spec = bundle.spec
    clip = np.random.default_rng(4).integers(0, 256, (20, *spec.chunk_shape), np.uint8)
    slots = np.random.default_rng(5).permutation(20).astype(np.int32)
    begin = 0
    for size in (1, 2, 3, 4, 5, 5):
        engine.encode(clip[begin : begin + size], slots[begin : begin + size])
        begin += size
    first = np.arange(17)
    windows = np.stack([slots[at : at + spec.chunks] for at in first])
    expected = pytorch_probabilities(model, np.stack([clip[at : at + spec.chunks] for at in first]))
    for size in range(1, MAX_BATCH + 1):
        for at in range(0, len(windows), size):
            actual = engine.classify(windows[at : at + size])
            np.testing.assert_allclose(actual, expected[at : at + size], atol=TOLERANCE[precision])
    assert expected.std(0).max() > 10 * TOLERANCE["fp32"]  # the windows differ from each other
    engine.close()
