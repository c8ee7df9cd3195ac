"""The OpenVINO backend splits batches among cores and caches its compiled graphs."""

from pathlib import Path

import numpy as np
import openvino
import pytest
from support.bundles import expected_logits, random_chunks

import engines.backends.cores
import engines.backends.openvino
import engines.cache
from engines.activation import softmax
from engines.backends.batch_size import BatchCost
from engines.bundle import Bundle, load_bundle
from engines.opening import open_engine
from engines.parity import TOLERANCE
from streamclf.builtin_models import BUNDLES


@pytest.mark.parametrize(("streams", "threads", "parts"), [(1, 8, 1), (3, 8, 1), (4, 8, 8), (400, 32, 16), (4, 1, 1)])
def test_batches_of_many_streams_are_split_among_cores(streams: int, threads: int, parts: int) -> None:
    assert engines.backends.openvino.parallel_requests(streams=streams, threads=threads, max_batch=16) == parts


def test_a_split_batch_gives_the_same_numbers(brightness: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """Five chunks and five windows are split into three parts; the last part is smaller."""
    monkeypatch.setattr(engines.backends.cores, "MIN_WORK_S", 1e-9)
    monkeypatch.setattr(engines.backends.cores, "MAX_ROUND_S", 1e-9)
    engine = open_engine(
        brightness, backend="openvino", precision="fp32", max_batch=5, bank_slots=12, threads=3, streams=8
    )
    assert "batches in up to 3 parts" in engine.description
    chunks = random_chunks(5)
    engine.encode(chunks, np.arange(5, dtype=np.int32)[::-1].copy())
    windows = np.array([np.roll(np.arange(5), -shift)[:4] for shift in range(5)], np.int32)
    expected = [softmax(expected_logits(chunks[4 - window])) for window in windows]
    np.testing.assert_allclose(engine.classify(windows), expected, atol=TOLERANCE["fp32"])
    engine.close()


def test_weights_that_are_stored_as_integers_are_right_with_several_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenVINO 2026.4 computes them wrongly then, so the golden clip of `everyday` failed with four streams."""
    monkeypatch.setattr(engines.backends.cores, "MAX_ROUND_S", 1e-9)
    engine = open_engine(
        load_bundle(BUNDLES / "everyday"), backend="openvino", precision="fp32", max_batch=4, threads=2, streams=8
    )
    assert "batches in up to 2 parts" in engine.description
    engine.close()


def test_a_graph_is_compiled_only_once_unless_its_cached_file_is_damaged(
    brightness: Bundle, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    compiled = []
    compile_model = openvino.Core.compile_model
    monkeypatch.setattr(
        openvino.Core,
        "compile_model",
        lambda core, path, *rest: compiled.append(path) or compile_model(core, path, *rest),
    )

    def count_compiled() -> int:
        compiled.clear()
        open_engine(brightness, backend="openvino", precision="fp32").close()
        return len(compiled)

    assert count_compiled() == 2
    assert count_compiled() == 0
    (path,) = engines.cache.cache_root().glob("engines/*/encoder")
    path.write_bytes(path.read_bytes()[:-10])
    assert count_compiled() == 1
    assert "truncated" in caplog.text


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="only Linux lists the files that a process maps")
def test_an_engine_reads_its_weights_from_the_cached_files(brightness: Bundle) -> None:
    """Otherwise each process would hold all weights twice: in the file's order and in OpenVINO's."""

    def mapped() -> set[str]:
        lines = Path("/proc/self/maps").read_text().splitlines()
        return {Path(line.split()[-1]).name for line in lines if str(engines.cache.cache_root()) in line}

    for _ in ("compiled", "loaded"):
        engine = open_engine(brightness, backend="openvino", precision="fp32")
        assert mapped() == {"encoder", "head"}
        engine.close()


def test_a_batch_that_is_filled_up_gives_the_same_numbers(brightness: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch of two after one of five is computed as five: the other three have no effect."""
    cost = BatchCost(item_s=1e-6, change_s=1.0)
    monkeypatch.setattr(engines.backends.openvino, "measure_batch_cost", lambda _: cost)
    monkeypatch.setattr(engines.backends.cores, "MIN_WORK_S", 3600.0)
    engine = open_engine(brightness, backend="openvino", precision="fp32", max_batch=5, bank_slots=12)
    chunks = random_chunks(7)
    sizes = []
    set_input = openvino.InferRequest.set_input_tensor
    monkeypatch.setattr(
        openvino.InferRequest,
        "set_input_tensor",
        lambda request, tensor: sizes.append(tensor.shape[0]) or set_input(request, tensor),
    )
    engine.encode(chunks[:5], np.arange(5, dtype=np.int32))
    engine.encode(chunks[5:], np.arange(5, 7, dtype=np.int32))
    windows = np.array([[0, 1, 2, 3], [3, 4, 5, 6]], np.int32)
    expected = [softmax(expected_logits(chunks[window])) for window in windows]
    np.testing.assert_allclose(engine.classify(windows), expected, atol=TOLERANCE["fp32"])
    np.testing.assert_allclose(engine.classify(windows[1:]), expected[1:], atol=TOLERANCE["fp32"])
    assert sizes == [5, 5, 2, 2]
    engine.close()
