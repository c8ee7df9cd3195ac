"""Fixtures for the tests of `engines`."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.bundles import make_brightness_bundle
from support.gpu_double import double_platform

import engines.backends.tensorrt
import engines.opening
from engines.backends.names import Backend
from engines.bundle import Bundle, load_bundle
from streamclf.builtin_models import BUNDLES


@pytest.fixture(autouse=True)
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give each test its own cache of compiled engines."""
    monkeypatch.setenv("STREAMCLF_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="session")
def built_in() -> Bundle:
    """The built-in model camera-events: a trained ViViT."""
    return load_bundle(BUNDLES / "camera-events")


@pytest.fixture(scope="session")
def brightness(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle whose probabilities follow from the brightness; tests must not change its files."""
    return make_brightness_bundle(tmp_path_factory.mktemp("bundles") / "brightness")


@pytest.fixture(params=["openvino", "onnxruntime", "tensorrt"])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Backend:
    """Each backend; TensorRT uses a double of the GPU that computes on the CPU. tests/gpu uses a real GPU."""
    name: Backend = request.param
    if name == "tensorrt":
        monkeypatch.setattr(engines.backends.tensorrt, "load_platform", double_platform)
        monkeypatch.setattr(engines.opening, "missing_libraries", lambda backend: [])
    return name
