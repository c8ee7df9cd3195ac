"""Layers that must stay in FP32 when a model is lowered: found by `streamclf compile --explain`, used ever after."""

from __future__ import annotations

import json
from collections.abc import Mapping

from engines.bundle import ENCODER_FILE, HEAD_FILE, Bundle
from engines.cache import CompiledCache, open_cache

PARTS = ("encoder", "head")
Kept = Mapping[str, tuple[str, ...]]
"""Names of nodes, by part."""


def load_kept_fp32(bundle: Bundle, precision: str) -> Kept:
    """What was found for this bundle and precision; nothing where nobody has looked, or nothing was guilty."""
    blob = _cache(bundle, precision).load("fp32-layers")
    found = json.loads(blob) if blob else {}
    return {part: tuple(found.get(part, ())) for part in PARTS}


def store_kept_fp32(bundle: Bundle, precision: str, kept: Kept) -> None:
    """Remember the layers for later builds on this machine."""
    _cache(bundle, precision).store("fp32-layers", json.dumps({part: list(kept[part]) for part in PARTS}).encode())


def _cache(bundle: Bundle, precision: str) -> CompiledCache:
    files = bundle.spec.files
    return open_cache(
        {"encoder": files[ENCODER_FILE], "head": files[HEAD_FILE], "lowered_to": precision}, subject=("encoder", "head")
    )
