"""Settings and fixtures that all tests share.

A test file that uses processes, threads, sockets or the clock gets a second attempt for each of its tests. Their
deadlines are real, and a machine that stops for a second makes a camera stalled or a child late, as it would in
operation. A test that must not fail even once in a hundred runs has the mark `flaky(reruns=0)`, and gets no second
attempt.
"""

from __future__ import annotations

import ast
import logging
import signal
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from hypothesis import settings
from support.clips import write_clip

from streamclf import redact

# The machine may be busy with other work, so no test fails because an example took long.
settings.register_profile("streamclf", deadline=None, max_examples=60)
settings.load_profile("streamclf")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell without job control ignores SIGINT in its background commands, and all processes of tests inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)

TESTS = Path(__file__).parent
REAL_TIME = {"asyncio", "multiprocessing", "select", "signal", "socket", "subprocess", "threading", "time", "zmq"}
"""With these modules, a test depends on how soon the machine runs a process or a thread."""


@cache
def uses_real_time(path: Path) -> bool:
    """Return whether the file, or a module of tests/support that it imports, imports a module of `REAL_TIME`."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    if any(name.partition(".")[0] in REAL_TIME for name in names):
        return True
    files = (TESTS.joinpath(*name.split(".")).with_suffix(".py") for name in names if name.startswith("support."))
    return any(uses_real_time(file) for file in files if file.is_file())


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Give a second attempt to each test whose deadlines are real, except with `--reruns 0`."""
    if config.getoption("reruns") == 0:
        return  # a mark would take precedence over the option
    for item in items:
        if item.get_closest_marker("flaky") is None and uses_real_time(item.path):
            item.add_marker(pytest.mark.flaky(reruns=1))


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
