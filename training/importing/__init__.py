"""Convert Hugging Face checkpoints of ViViT, VideoMAE and TimeSformer to bundles."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from engines.bundle import Bundle
from training.data.shape import Shape
from training.errors import FolderError
from training.export.golden import render_windows
from training.export.onnx import export_bundle
from training.importing.config import FolderConfig
from training.importing.folder import read_config
from training.importing.labels import read_class_names
from training.importing.model import load_model
from training.importing.processor import ImageProcessor, read_processor

MAX_WINDOW_BYTES: Final = 1 << 30
"""A bound on the golden window, which the bundle contains; ViViT-B/16x2 has 6.3 MB."""


def import_folder(folder: Path, output: Path, *, fps: float | None = None) -> Bundle:
    """Read `folder` (config.json, preprocessor_config.json, model.safetensors) and write the bundle `output`.

    The bundle's logits equal those of transformers for the same frames after the folder's own image processor. `fps`
    is the rate of sampled frames, by default that of the published model of this kind.

    Raises `FolderError` where the folder is incomplete, holds an unknown model or uses something that a bundle cannot
    express; `RunError` where an exported graph differs from the PyTorch model.
    """
    if not folder.is_dir():
        raise FolderError(f"{folder}: no such folder; give a folder that contains config.json")
    config = read_config(folder)
    classes = read_class_names(folder, config)
    config = config.model_copy(update={"id2label": dict(enumerate(classes.names))})
    processor = read_processor(folder, config.crop)
    rate = config.fps if fps is None else fps
    if not 0 < rate <= 240:
        raise FolderError(f"fps={rate}: must be more than 0 and at most 240 frames per second")
    shape = Shape(
        fps=rate,
        frames_per_chunk=config.tubelet[0],
        chunks=config.chunks,
        height=processor.height,
        width=processor.width,
    )
    pixels = shape.window * shape.height * shape.width * 3
    if pixels > MAX_WINDOW_BYTES:
        raise FolderError(
            f"{folder}: {shape.window} frames of {shape.height} x {shape.width} pixels: {pixels / 1e9:.1f} GB in one "
            f"window, at most {MAX_WINDOW_BYTES / 1e9:.1f} GB"
        )
    if shape.frames_per_chunk > 64 or shape.chunks > 1024:
        raise FolderError(
            f"{shape.chunks} chunks of {shape.frames_per_chunk} frames: a bundle has at most 1024 chunks of 64 frames"
        )
    model = load_model(folder, config, processor)
    fields = {
        "name": _name(folder, config),
        "version": "1",
        "labels": classes.names,
        "height": shape.height,
        "width": shape.width,
        "resize": processor.resize,
        "fps": rate,
        "frames_per_chunk": shape.frames_per_chunk,
        "chunks": shape.chunks,
    }
    golden = next(render_windows(shape, count=1))
    card = _card(config, processor, rate, notes=classes.notes, assumed_fps=fps is None)
    return export_bundle(model, fields=fields, golden=golden, card=card, path=output)


def _name(folder: Path, config: FolderConfig) -> str:
    """Return the folder's name, restricted to the characters that a bundle's name may have."""
    name = re.sub(r"[^a-z0-9_-]+", "-", folder.resolve().name.lower()).strip("-_")[:64]
    return name or config.model_type


def _card(
    config: FolderConfig, processor: ImageProcessor, fps: float, *, notes: Sequence[str], assumed_fps: bool
) -> str:
    """Write the model card; it lists the differences between the bundle and the folder."""
    notes = [
        *notes,
        *processor.notes,
        *(
            ["fps is the rate of the published model of this kind, because the folder does not contain it"]
            if assumed_fps
            else []
        ),
    ]
    return "\n".join(
        [
            f"# {config.model_type}, imported",
            "",
            f"Imported from a Hugging Face folder of {' / '.join(config.architectures) or config.model_type}: "
            f"{config.depth} of width {config.hidden_size}, {config.frames} frames at {fps:g} "
            f"fps, {len(config.id2label)} classes. Its logits equal those of transformers.",
            "",
            *(f"- {note}" for note in notes),
            "",
            "**Data and metrics**: see the model's own card. The import measures nothing.",
            "",
            "**Licence**: the licence of the weights; see the model's own card.",
            "",
        ]
    )
