"""The built-in model camera-events calls a picture that shows no scene `covered`, from a single window of it."""

from __future__ import annotations

import numpy as np

from engines.bundle import Bundle
from engines.opening import open_engine


def test_a_picture_without_any_scene_is_covered(built_in: Bundle) -> None:
    """A cap, paper or tape that lies on the lens, evenly lit or darker at one side, with the noise of a sensor."""
    spec = built_in.spec
    rng, slots = np.random.default_rng(0), np.arange(spec.chunks, dtype=np.int32)
    side = np.linspace(-1, 1, spec.width)[:, None]
    shape = (spec.chunks, spec.frames_per_chunk, spec.height, spec.width)
    found = {}
    engine = open_engine(built_in, backend="onnxruntime", precision="fp32")
    for level in (5, 60, 128, 200, 250):
        for gradient in (0.0, 0.3):
            picture = level * (1 + gradient * side) + rng.normal(0, 2, (*shape, 1))
            engine.encode(np.clip(picture, 0, 255).astype(np.uint8).repeat(3, axis=-1), slots)
            found[level, gradient] = spec.labels[int(engine.classify(slots[None])[0].argmax())]
    assert set(found.values()) == {"covered"}, found
