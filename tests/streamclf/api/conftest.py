"""An open model whose result is the brightness of a window."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.bundles import make_brightness_bundle

import streamclf


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Windows of 4 chunks of 2 frames of 16x16 pixels, 10 frames per second: 0.8 s."""
    return make_brightness_bundle(tmp_path_factory.mktemp("api") / "brightness").path


@pytest.fixture
def model(bundle: Path) -> Iterator[streamclf.Model]:
    with streamclf.open_model(bundle, backend="onnxruntime", precision="fp32", max_streams=3) as opened:
        yield opened
