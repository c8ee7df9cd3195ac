"""Check the public package: its names are pinned, and importing it loads nothing else."""

from __future__ import annotations

import json
import pkgutil
import subprocess
import sys

import pytest

import streamclf

PUBLIC = {
    "START", "Action", "BusError", "Classification", "ClassifiedWindow", "Clip", "ConfigError", "EventError",
    "Heartbeat", "JournalError", "Latency", "Lost", "Model", "ModelError", "ModelStream", "Position", "Prediction",
    "PushSink", "Snapshot", "SourceError", "Status", "StreamclfError", "Subscription", "UsageError", "ViewDescription",
    "Window",
    "__version__", "classify", "open_model", "parse_event", "push", "snapshot", "subscribe",
}  # fmt: skip


def in_new_interpreter(code: str) -> object:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    return json.loads(done.stdout)


def test_public_names_are_pinned() -> None:
    """Removing a name breaks users' programs: remove it here only with a line in the changelog."""
    assert set(streamclf.__all__) == PUBLIC
    assert set(dir(streamclf)) >= PUBLIC


def test_each_public_name_loads_from_its_module() -> None:
    for name in PUBLIC - {"__version__", "START"}:
        found = getattr(streamclf, name)
        assert found.__name__ == name
        assert found.__module__.startswith("streamclf.")
    assert callable(streamclf.subscribe)
    assert streamclf.Position("", 0) == streamclf.START


def test_no_module_has_a_public_name() -> None:
    """Importing a module `streamclf.subscribe` would hide the function of that name."""
    assert not {module.name for module in pkgutil.iter_modules(streamclf.__path__)} & PUBLIC


def test_import_loads_no_library_and_subscribe_only_those_it_needs() -> None:
    code = (
        "import json, sys; import streamclf\n"
        "heavy = {'zmq', 'pydantic', 'numpy', 'cv2', 'av', 'openvino', 'rich', 'typer', 'orjson'}\n"
        "before = sorted(heavy & set(sys.modules)); streamclf.subscribe\n"
        "print(json.dumps([before, sorted(heavy & set(sys.modules))]))"
    )
    before, after = in_new_interpreter(code)  # type: ignore[misc]
    assert before == []
    assert set(after) <= {"zmq", "pydantic", "orjson"}


def test_classify_loads_no_library_before_it_is_called() -> None:
    code = (
        "import json, sys; import streamclf; streamclf.classify, streamclf.open_model\n"
        "heavy = {'torch', 'cv2', 'av', 'zmq', 'openvino', 'onnxruntime', 'rich', 'typer'}\n"
        "print(json.dumps(sorted(heavy & set(sys.modules))))"
    )
    assert in_new_interpreter(code) == []


def test_unknown_name_raises_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'subscibe'"):
        _ = streamclf.subscibe
