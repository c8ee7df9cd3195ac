"""`import streamclf` is what other programs build on: its names are pinned, and it costs nothing."""

from __future__ import annotations

import json
import pkgutil
import subprocess
import sys

import pytest

import streamclf

PUBLIC = {
    "START", "Action", "BusError", "ConfigError", "EventError", "Heartbeat", "JournalError", "Latency", "Lost",
    "Position", "Prediction", "PushSink", "Snapshot", "SourceError", "Status", "StreamclfError", "Subscription",
    "UsageError", "Window", "__version__", "parse_event", "push", "snapshot", "subscribe",
}  # fmt: skip


def in_new_interpreter(code: str) -> object:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    return json.loads(done.stdout)


def test_the_public_names_are_these() -> None:
    """A name that goes breaks somebody's program: take it out here only with a line in the changelog."""
    assert set(streamclf.__all__) == PUBLIC
    assert set(dir(streamclf)) >= PUBLIC


def test_each_name_is_there_and_lives_where_the_package_says() -> None:
    for name in PUBLIC - {"__version__", "START"}:
        assert getattr(streamclf, name).__module__ in streamclf._ROOMS
    assert callable(streamclf.subscribe)
    assert streamclf.Position("", 0) == streamclf.START


def test_no_module_is_called_like_a_public_name() -> None:
    """Importing `streamclf.subscribe` as a module would put it in the place of the function."""
    assert not {module.name for module in pkgutil.iter_modules(streamclf.__path__)} & PUBLIC


def test_importing_it_loads_nothing_and_using_it_only_what_that_needs() -> None:
    code = (
        "import json, sys; import streamclf\n"
        "heavy = {'zmq', 'pydantic', 'numpy', 'cv2', 'av', 'openvino', 'rich', 'typer', 'orjson'}\n"
        "before = sorted(heavy & set(sys.modules)); streamclf.subscribe\n"
        "print(json.dumps([before, sorted(heavy & set(sys.modules))]))"
    )
    before, after = in_new_interpreter(code)  # type: ignore[misc]
    assert before == []
    assert set(after) <= {"zmq", "pydantic", "orjson"}


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'subscibe'"):
        _ = streamclf.subscibe
