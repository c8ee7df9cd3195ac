"""Settings and fixtures that all tests share."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from support.clips import write_clip

from streamclf import redact

# The machine may be busy with other work, so no test fails because an example took long.
settings.register_profile("streamclf", deadline=None, max_examples=60)
settings.load_profile("streamclf")


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seconds of bar codes 0 to 49, 320x180, 25 frames per second."""
    return write_clip(tmp_path_factory.mktemp("clips") / "bars.mp4")


@pytest.fixture(autouse=True)
def _restore_log_level() -> Iterator[None]:
    """Undo what `configure_logging` does to the root logger, for the tests that run later in the same process."""
    root = logging.getLogger()
    level = root.level
    yield
    root.setLevel(level)


@pytest.fixture(autouse=True)
def _forget_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget the secrets that a test registers: a later test may use one of them as a word of a message."""
    monkeypatch.setattr(redact, "_secrets", dict(redact._secrets))
    monkeypatch.setattr(redact, "_masked", redact._masked)
