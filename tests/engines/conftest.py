"""Fixtures of all tests of `engines`."""

from __future__ import annotations

from pathlib import Path

import pytest

from engines.bundle import Bundle, load_bundle
from streamclf.builtin_models import BUNDLES


@pytest.fixture(autouse=True)
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give each test a cache of compiled engines of its own."""
    monkeypatch.setenv("STREAMCLF_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="session")
def built_in() -> Bundle:
    """The built-in model camera-events: a trained ViViT."""
    return load_bundle(BUNDLES / "camera-events")
