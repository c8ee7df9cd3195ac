"""Bundles that come with the package, and how a model's name or path becomes a bundle."""

from __future__ import annotations

from pathlib import Path

from engines.bundle import SPEC_FILE, Bundle, load_bundle
from streamclf.errors import UsageError

BUNDLES = Path(__file__).parent / "bundles"
DEFAULT_MODEL = "camera-events"


def builtin_models() -> list[str]:
    """Names of the bundles in the package."""
    return sorted(path.parent.name for path in BUNDLES.glob(f"*/{SPEC_FILE}"))


def find_bundle(model: str) -> Bundle:
    """Load and verify the built-in bundle of that name, or the one in that directory.

    Raises `UsageError` where there is none, `BundleError` where it is damaged.
    """
    if model in builtin_models():
        return load_bundle(BUNDLES / model)
    path = Path(model).expanduser()
    if not path.is_dir():
        raise UsageError(
            f"model={model}: no such directory; give a bundle's, or a built-in: {', '.join(builtin_models())}"
        )
    return load_bundle(path)
