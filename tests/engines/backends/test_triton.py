"""Engines on a Triton server give the numbers of ONNX Runtime. A wrong, missing or failing server is one error."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tritonclient.http", reason="tritonclient[http] is not installed")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

from support.bundles import make_brightness_bundle
from support.triton_server import TritonServer

from engines.bundle import Bundle
from engines.errors import BackendMissingError, CompileError, DeviceError
from engines.group import GroupOptions, open_group
from engines.opening import open_engine
from engines.triton_repository import write_repository
from streamclf.cli import _main


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return make_brightness_bundle(tmp_path / "model")


@pytest.fixture
def server(bundle: Bundle, tmp_path: Path) -> Iterator[TritonServer]:
    write_repository(bundle, tmp_path / "repository", max_batch=3)
    with TritonServer(tmp_path / "repository") as server:
        yield server


def test_numbers_are_those_of_onnx_runtime(bundle: Bundle, server: TritonServer) -> None:
    engine = open_engine(bundle, backend="triton", url=server.url, max_batch=8)
    reference = open_engine(bundle, backend="onnxruntime", max_batch=3, bank_slots=8)
    assert engine.max_batch == 3, "the limit of the server's models"
    frames = np.random.default_rng(1).integers(0, 256, (6, *bundle.spec.chunk_shape), np.uint8)
    for each in (engine, reference):
        for start in (0, 3):
            each.encode(frames[start : start + 3], np.arange(start, start + 3, dtype=np.int32))
    windows = np.array([[0, 1, 2, 3], [2, 3, 4, 5]], np.int32)
    assert np.array_equal(engine.classify(windows), reference.classify(windows))
    assert np.array_equal(engine.read_features(windows[0, :3]), reference.read_features(windows[0, :3]))
    engine.close()
    reference.close()


def test_two_models_with_one_encoder_encode_once(bundle: Bundle, tmp_path: Path) -> None:
    other = make_brightness_bundle(tmp_path / "other", name="other")
    for each in (bundle, other):
        write_repository(each, tmp_path / "repository", max_batch=8)
    with TritonServer(tmp_path / "repository") as server:
        options = GroupOptions(backend="triton", url=server.url)
        group = open_group({"one": bundle, "two": other}, options).group
        server.requests.clear()
        frames = np.zeros((4, *bundle.spec.chunk_shape), np.uint8)
        group.owner.encode(frames, np.arange(4, dtype=np.int32))
        windows = np.arange(4, dtype=np.int32)[None]
        assert np.array_equal(group["one"].classify(windows), group["two"].classify(windows))
        assert [name for name, _ in server.requests].count(f"{bundle.spec.name}-encoder") == 1
        assert len(server.requests) == 3
        group.close()


def test_models_of_another_bundle_are_refused(server: TritonServer, tmp_path: Path) -> None:
    other = make_brightness_bundle(tmp_path / "other", corner=8)
    with pytest.raises(CompileError, match="was made from another bundle; write it again"):
        open_engine(other, backend="triton", url=server.url)


def test_a_server_without_the_models_or_none_at_all_is_named(bundle: Bundle, server: TritonServer) -> None:
    server.models.clear()
    with pytest.raises(BackendMissingError, match="unknown model; write its models with `streamclf compile"):
        open_engine(bundle, backend="triton", url=server.url)
    with pytest.raises(BackendMissingError, match=r"127\.0\.0\.1:1: model"):
        open_engine(bundle, backend="triton", url="http://127.0.0.1:1")
    with pytest.raises(BackendMissingError, match=r"give the server as engine\.url"):
        open_engine(bundle, backend="triton")


def test_an_error_of_the_server_is_raised_with_its_text(bundle: Bundle, server: TritonServer) -> None:
    engine = open_engine(bundle, backend="triton", url=server.url)
    server.failing = "out of memory"
    with pytest.raises(DeviceError, match=r"model .*-encoder: .*out of memory"):
        engine.encode(np.zeros((1, *bundle.spec.chunk_shape), np.uint8), np.zeros(1, np.int32))
    engine.close()


def test_compile_writes_the_repository(bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _main(["compile", str(bundle.path), "--triton", str(tmp_path / "r"), "--max-batch", "32"]) == 0
    assert capsys.readouterr().out.count(str(tmp_path / "r")) == 2
    config = (tmp_path / "r" / f"{bundle.spec.name}-head" / "config.pbtxt").read_text()
    assert "max_batch_size: 32" in config
    assert bundle.spec.files["head.onnx"] in config
    (tmp_path / "file").write_text("")
    assert _main(["compile", str(bundle.path), "--triton", str(tmp_path / "file")]) != 0
    assert "--triton" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("engine", "message"),
    [
        ({"backend": "triton"}, "backend: triton and url go together"),
        ({"url": "http://a:8000"}, "backend: triton and url go together"),
        ({"backend": "triton", "url": "http://u:p@a:8000"}, "without a user or a path"),
        ({"backend": "triton", "url": "file:///etc/passwd"}, "must be http://HOST:PORT"),
    ],
)
def test_configurations_that_do_not_fit_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], engine: dict[str, str], message: str
) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(json.dumps({"model": "camera-events", "streams": {"a": {"url": "rtsp://x/y"}}, "engine": engine}))
    assert _main(["check", str(path)]) != 0
    assert message in "".join(capsys.readouterr())
