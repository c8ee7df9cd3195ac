"""Find the bundle of a model: a built-in one by its name, or one in a directory."""

from __future__ import annotations

import difflib
from pathlib import Path

from engines.bundle import SPEC_FILE, Bundle, load_bundle
from streamclf.errors import UsageError

BUNDLES = Path(__file__).parent / "bundles"
DEFAULT_MODEL = "camera-events"
MAX_SHOWN_CHARS = 1000
"""An error shows so much of a name that cannot be found."""


def builtin_models() -> list[str]:
    """List the names of the bundles in the package."""
    return sorted(path.parent.name for path in BUNDLES.glob(f"*/{SPEC_FILE}"))


def find_bundle(model: str, key: str = "model") -> Bundle:
    """Load and verify the built-in bundle named `model`, or the bundle in the directory `model`.

    Raises `UsageError`, which names `key`, if there is none, and `BundleError` if it is damaged.
    """
    if model in builtin_models():
        return load_bundle(BUNDLES / model)
    path = _existing_directory(model)
    if path is None:
        near = difflib.get_close_matches(model, builtin_models(), n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise UsageError(
            f"{key}={model:.{MAX_SHOWN_CHARS}}: no such directory; {hint}give a bundle's directory, or a built-in "
            f"model: {', '.join(builtin_models())}"
        )
    return load_bundle(path)


def _existing_directory(text: str) -> Path | None:
    try:
        path = Path(text).expanduser()
        return path if path.is_dir() else None
    except (OSError, RuntimeError, ValueError):  # a name that is too long, or the home of a user who does not exist
        return None
