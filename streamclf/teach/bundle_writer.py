"""Write a taught model as a bundle, and check it, before it takes its place."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from engines.arrays import F32, U8
from engines.bundle import (
    CARD_FILE,
    ENCODER_FILE,
    GOLDEN_FILE,
    GRAPH_NAMES,
    HEAD_FILE,
    Bundle,
    load_bundle,
    write_spec,
)
from engines.opening import open_engine
from streamclf.errors import OutputError
from streamclf.teach.card import write_card
from streamclf.teach.examples import save_examples
from streamclf.teach.golden_window import choose_golden
from streamclf.teach.head_graph import write_head
from streamclf.teach.output_folder import new_folder
from streamclf.teach.taught import Taught
from streamclf.teach.taught_head import probabilities_of

REPORT_FILE: Final = "report.html"
CHECKED_WINDOWS: Final = 16
MOST_DIFFERENCE: Final = 1e-3
"""The largest accepted difference of a probability between `head.onnx` and the head in NumPy."""
_COPIED: Final = (
    "height", "width", "resize", "fps", "frames_per_chunk", "chunks", "short_clips", "feature_parts", "decode",
)  # fmt: skip


def model_name(output: Path) -> str:
    """Return the name of the model in a folder: lower-case letters, digits, hyphens and underscores."""
    name = re.sub(r"[^a-z0-9_-]+", "-", output.resolve().name.lower()).strip("-_")[:64]
    return name or "taught"


def write_bundle(
    taught: Taught, candidates: Sequence[tuple[F32, U8]], windows: F32, make_report: Callable[[Taught], str]
) -> None:
    """Write the bundle, check it, and put it in the place of `taught.output`. Raises `OutputError`.

    `candidates`: features (T, F) and pixels of windows, from which the golden one is chosen. `windows`: features
    (N, T, F), on some of which the written head is compared with the one in NumPy.
    """
    spec = taught.base.spec
    with new_folder(taught.output) as folder:
        frames, logits = choose_golden(taught.head, candidates)
        shutil.copyfile(taught.base.encoder_path, folder / ENCODER_FILE)
        (folder / HEAD_FILE).write_bytes(write_head(taught.head, spec, len(taught.labels)))
        np.savez_compressed(folder / GOLDEN_FILE, frames=frames, logits=logits.astype(np.float32))
        card = write_card(
            f"{taught.name} {taught.version}",
            spec,
            taught.examples.base,
            taught.figures,
            taught.head,
            advice=taught.advice,
            none_label=taught.none_label,
        )
        (folder / CARD_FILE).write_text(card, encoding="utf-8")
        bundle = write_spec(folder, _spec_fields(taught))
        _check(bundle, taught, windows)
        # These files are not in the spec, so a copy of the bundle without them is whole.
        save_examples(folder, taught.examples, spec=bundle.spec)
        (folder / REPORT_FILE).write_text(make_report(taught), encoding="utf-8", errors="replace")
    load_bundle(taught.output)


def _spec_fields(taught: Taught) -> dict[str, Any]:
    low, high = taught.figures.interval
    spec = taught.base.spec
    return {
        "name": taught.name,
        "version": taught.version,
        "labels": taught.labels,
        **{key: getattr(spec, key) for key in _COPIED},
        "feature_shape": spec.feature_shape,
        "thresholds": taught.thresholds,
        "metrics": {
            "held_out_balanced_accuracy": round(taught.figures.balanced_accuracy, 4),
            "held_out_low": round(low, 4),
            "held_out_high": round(high, 4),
            "clips": taught.figures.clips,
        },
    }


def _check(bundle: Bundle, taught: Taught, windows: F32) -> None:
    """Open the bundle as the service does, and compare its head with the one in NumPy on some examples."""
    chosen = windows[np.linspace(0, len(windows) - 1, min(CHECKED_WINDOWS, len(windows))).astype(int)]
    spec = bundle.spec
    engine = open_engine(bundle, precision="fp32", max_batch=max(1, spec.chunks), bank_slots=spec.chunks)
    try:
        slots = np.arange(spec.chunks, dtype=np.int32)
        for window in chosen:
            engine.write_features(np.ascontiguousarray(window.reshape(-1, *spec.feature_shape)), slots)
            expected = probabilities_of(taught.head.logits(window[None]))[0]
            difference = float(np.abs(engine.classify(slots[None])[0] - expected).max())
            if not difference <= MOST_DIFFERENCE:
                raise OutputError(
                    f"{GRAPH_NAMES[1]}: differs by {difference:.1e} from the fitted head; the libraries onnx and "
                    f"{engine.description} do not fit together: update them"
                )
    finally:
        engine.close()
