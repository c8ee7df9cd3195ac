"""Check that the libraries of the extra `teach` are installed, without loading them."""

from __future__ import annotations

import importlib.util

from streamclf.errors import UsageError


def require_libraries() -> None:
    """Raise `UsageError` where the libraries of the extra `teach` are not installed."""
    if any(importlib.util.find_spec(name) is None for name in ("onnx", "sklearn")):
        raise UsageError("teach needs scikit-learn and onnx; install them with: pip install '.[teach]' in a clone")
