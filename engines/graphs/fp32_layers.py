"""Store the layers that must stay in FP32: `streamclf compile --explain` finds them, every later build uses them."""

from __future__ import annotations

import json
from collections.abc import Mapping

from engines.bundle import ENCODER_FILE, GRAPH_NAMES, HEAD_FILE, Bundle
from engines.cache import CompiledCache, open_cache

Fp32Layers = Mapping[str, tuple[str, ...]]
"""Names of nodes, by graph."""


def load_fp32_layers(bundle: Bundle, precision: str) -> Fp32Layers:
    """Load the layers found for this bundle and precision; empty if there are none or no search was made."""
    blob = _cache(bundle, precision).load("fp32-layers")
    found = json.loads(blob) if blob else {}
    return {graph: tuple(found.get(graph, ())) for graph in GRAPH_NAMES}


def store_fp32_layers(bundle: Bundle, precision: str, layers: Fp32Layers) -> None:
    """Store the layers for later builds on this machine."""
    _cache(bundle, precision).store(
        "fp32-layers", json.dumps({graph: list(layers[graph]) for graph in GRAPH_NAMES}).encode()
    )


def _cache(bundle: Bundle, precision: str) -> CompiledCache:
    files = bundle.spec.files
    return open_cache(
        {"encoder": files[ENCODER_FILE], "head": files[HEAD_FILE], "lowered_to": precision}, subject=("encoder", "head")
    )
