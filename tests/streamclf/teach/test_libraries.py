"""A machine without the extra `teach` gets one line with the remedy, before a user collects examples."""

from __future__ import annotations

import importlib.util

import pytest

from streamclf.errors import UsageError
from streamclf.subscribers.web.rest import teach as routes
from streamclf.teach.libraries import require_libraries


def test_a_missing_library_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "sklearn" else object())
    with pytest.raises(UsageError, match=r"teach needs scikit-learn and onnx; .* pip install '\.\[teach\]'"):
        require_libraries()
    assert "pip install '.[teach]'" in (routes._missing() or "")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    require_libraries()
    assert routes._missing() is None
