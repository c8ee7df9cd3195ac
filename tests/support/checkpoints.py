"""Save small random models with transformers, and compare bundles with them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

from engines.arrays import F32, U8
from engines.bundle import Bundle
from engines.graphs.quantise import quantise_bundle
from training.errors import FolderError
from training.importing import import_folder, read_folder
from training.importing.model import load_model

TOLERANCE = 5e-5
"""The largest accepted difference of logits in PyTorch; the random models' logits are as large as 10."""
LABELS = {0: "clap", 1: "wave", 2: "nothing"}


def save_checkpoint(path: Path, model: Any, processor: Any) -> Path:
    """Move the model's weights away from their initial values, and save it with its video processor."""
    torch.manual_seed(4)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    model.eval().save_pretrained(path)
    processor.save_pretrained(path)
    return path


def random_frames(count: int, height: int, width: int, seed: int = 0) -> U8:
    """Return (count, height, width, 3) uint8."""
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def transformers_logits(folder: Path, model_class: Any, frames: U8, **words: Any) -> F32:
    """Return the logits of transformers for frames (F, H, W, 3) after the folder's own video processor."""
    from transformers import AutoVideoProcessor

    processor = AutoVideoProcessor.from_pretrained(folder)
    pixels = processor(frames, return_tensors="pt", do_sample_frames=False)["pixel_values_videos"]
    with torch.inference_mode():
        logits: F32 = model_class.from_pretrained(folder).eval()(pixels, **words).logits.flatten().numpy()
    return logits


def imported_logits(folder: Path, frames: U8, *, interpolate: bool = False) -> F32:
    """Return the logits of the imported PyTorch model for one window of frames (F, H, W, 3)."""
    found = read_folder(folder, interpolate=interpolate)
    model, shape = load_model(folder, found.config, found.processor, interpolate=interpolate), found.shape
    window = torch.from_numpy(frames).reshape(1, shape.chunks, shape.frames_per_chunk, *frames.shape[1:])
    with torch.inference_mode():
        logits: F32 = model(window)[0].numpy()
    return logits


def onnx_features(bundle: Bundle, frames: U8) -> F32:
    """Return the features (T, *F) of frames (F, H, W, 3), one encode per chunk."""
    session = onnxruntime.InferenceSession(bundle.encoder_path)
    chunks = frames.reshape(-1, 1, *bundle.spec.chunk_shape)
    return np.concatenate([session.run(None, {"frames": chunk})[0] for chunk in chunks])


def onnx_logits(bundle: Bundle, features: F32) -> F32:
    """Return the logits (K,) of one window's features (T, *F)."""
    (logits,) = onnxruntime.InferenceSession(bundle.head_path).run(None, {"features": features[None]})
    assert isinstance(logits, np.ndarray)
    return logits[0]


def check_refused(saved: Path, scratch: Path, file: str, changes: dict[str, Any], message: str) -> None:
    """Check that a copy of the folder `saved`, with `changes` in its JSON `file`, is refused and leaves no bundle."""
    folder = scratch / "bad"
    shutil.copytree(saved, folder)
    change_json(folder / file, **changes)
    with pytest.raises(FolderError) as caught:
        import_folder(folder, scratch / "bundle")
    assert message in str(caught.value)
    assert not (scratch / "bundle").exists()


def change_json(path: Path, **changes: Any) -> None:
    """Set keys of a JSON file; None removes a key."""
    tree = json.loads(path.read_text(encoding="utf-8")) | changes
    kept = {name: value for name, value in tree.items() if name not in changes or value is not None}
    path.write_text(json.dumps(kept), encoding="utf-8")


def int8_logits(bundle: Bundle, path: Path, frames: U8) -> F32:
    """Quantise the bundle, calibrated with random windows, and return its INT8 logits (K,) for one window of frames."""
    windows = [random_frames(len(frames), *frames.shape[1:3], seed=seed) for seed in range(3)]
    shape = (-1, bundle.spec.chunks, *bundle.spec.chunk_shape)
    graphs = quantise_bundle(bundle, np.stack(windows).reshape(shape), path).graphs("int8")
    encoder, head = (onnxruntime.InferenceSession(graph) for graph in graphs)
    (features,) = encoder.run(None, {"frames": frames.reshape(shape[1:])})
    (logits,) = head.run(None, {"features": features[None]})
    assert isinstance(logits, np.ndarray)
    return logits[0]
