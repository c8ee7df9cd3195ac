"""Find the bundle of a model: a built-in one by its name, or one in a directory."""

from __future__ import annotations

import difflib
from pathlib import Path

from engines.bundle import SPEC_FILE, Bundle, load_bundle
from streamclf.errors import UsageError

BUNDLES = Path(__file__).parent / "bundles"
DEFAULT_MODEL = "camera-events"


def builtin_models() -> list[str]:
    """List the names of the bundles in the package."""
    return sorted(path.parent.name for path in BUNDLES.glob(f"*/{SPEC_FILE}"))


def find_bundle(model: str) -> Bundle:
    """Load and verify the built-in bundle named `model`, or the bundle in the directory `model`.

    Raises `UsageError` if there is none, and `BundleError` if it is damaged.
    """
    if model in builtin_models():
        return load_bundle(BUNDLES / model)
    path = Path(model).expanduser()
    if not path.is_dir():
        near = difflib.get_close_matches(model, builtin_models(), n=1)
        raise UsageError(
            f"model={model}: no such directory; {f'did you mean {near[0]}? ' if near else ''}give a bundle's "
            f"directory, or a built-in model: {', '.join(builtin_models())}"
        )
    return load_bundle(path)
