"""Convert Hugging Face checkpoints of ViViT, VideoMAE, TimeSformer, VideoPrism and V-JEPA 2 to bundles."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from engines.bundle import DEFAULT_THRESHOLD, SPEC_FILE, Bundle
from training.data.shape import Shape
from training.errors import FolderError
from training.evaluation.summary import summarise_network
from training.export.front_matter import front_matter
from training.export.golden import choose_golden_window, render_windows
from training.export.onnx import export_bundle
from training.fit.run_folder import RECIPE_FILE
from training.importing.config import FolderConfig
from training.importing.folder import CONFIG_FILE, read_config
from training.importing.labels import read_class_names
from training.importing.limits import check_window
from training.importing.model import build_model, fit_config, load_model
from training.importing.processor import ImageProcessor, read_processor

GOLDEN_WINDOWS = 4
"""The number of golden windows to try where labels are independent; each costs a whole window of a large model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderModel:
    """The network, preprocessing and windows of a folder. `notes` go into the model card."""

    config: FolderConfig
    processor: ImageProcessor
    shape: Shape
    notes: tuple[str, ...]


def import_folder(folder: Path, output: Path, *, fps: float | None = None, interpolate: bool = False) -> Bundle:
    """Read `folder` (configuration, processor and weights, as `save_pretrained` writes them) and write `output`.

    The bundle's logits equal those of transformers for the same frames after the folder's own processor. `fps` is the
    rate of sampled frames, by default that of the processor or of the published model of this kind. `interpolate`: see
    `training.importing.model.fit_config`.

    Raises `FolderError` where the folder is incomplete, holds an unknown model or uses something that a bundle cannot
    express; `RunError` where an exported graph differs from the PyTorch model.
    """
    found = read_folder(folder, fps=fps, interpolate=interpolate)
    config, processor, shape = found.config, found.processor, found.shape
    model = load_model(folder, config, processor, interpolate=interpolate)
    fields: dict[str, Any] = {
        "name": _name(folder, config),
        "version": "1",
        "labels": tuple(config.id2label.values()),
        "height": shape.height,
        "width": shape.width,
        "resize": processor.resize,
        "fps": shape.fps,
        "frames_per_chunk": shape.frames_per_chunk,
        "chunks": shape.chunks,
    }
    golden = next(render_windows(shape, count=1))
    if config.activation == "sigmoid":
        fields["activation"] = config.activation
        limits = np.full(len(config.id2label), DEFAULT_THRESHOLD, np.float32)
        golden = choose_golden_window(model.eval(), render_windows(shape, count=GOLDEN_WINDOWS), limits)
    card = front_matter(name=fields["name"], licence="unknown") + _card(found)
    return export_bundle(model, fields=fields, golden=golden, card=card, path=output)


def summarise_folder(folder: Path) -> dict[str, Any]:
    """Count parameters and FLOPs of the folder's network, as `training.evaluation.summary` does; needs no weights."""
    found = read_folder(folder, weights=False)
    return {
        "name": _name(folder, found.config),
        "kind": found.config.model_type,
        "labels": len(found.config.id2label),
        "patches": found.config.patches,
        **_cost(found),
    }


def read_folder(
    folder: Path, *, fps: float | None = None, interpolate: bool = False, weights: bool = True
) -> FolderModel:
    """Read the folder's configuration and processor. `weights`: see `read_class_names`. Raises `FolderError`."""
    if not folder.is_dir():
        raise FolderError(f"{folder}: no such folder; give a folder that contains config.json")
    if not (folder / CONFIG_FILE).exists():
        for name, remedy in (
            (RECIPE_FILE, "export this run with: python -m training export"),
            (SPEC_FILE, "this bundle needs no import"),
        ):
            if (folder / name).is_file():
                raise FolderError(f"{folder}: has {name}, so it is not a Hugging Face folder; {remedy}")
    config = read_config(folder)
    classes = read_class_names(folder, config, weights=weights)
    config = config.model_copy(update={"id2label": dict(enumerate(classes.names))})
    processor = read_processor(folder, config.crop, any_size=interpolate)
    config = fit_config(folder, config, processor, interpolate=interpolate)
    notes = (*classes.notes, *processor.notes)
    if fps is None and processor.fps is None:
        notes += ("fps is the rate of the published model of this kind, because the folder does not contain it",)
    rate = next(given for given in (fps, processor.fps, config.fps) if given is not None)
    if not 0 < rate <= 240:
        raise FolderError(f"fps={rate}: must be more than 0 and at most 240 frames per second")
    shape = Shape(
        fps=rate,
        frames_per_chunk=config.tubelet[0],
        chunks=config.chunks,
        height=processor.height,
        width=processor.width,
    )
    check_window(folder, shape)
    return FolderModel(config=config, processor=processor, shape=shape, notes=notes)


def _cost(found: FolderModel) -> dict[str, Any]:
    return summarise_network(lambda: build_model(found.config, found.processor), found.shape)


def _name(folder: Path, config: FolderConfig) -> str:
    """Return the folder's name, restricted to the characters that a bundle's name may have."""
    name = re.sub(r"[^a-z0-9_-]+", "-", folder.resolve().name.lower()).strip("-_")[:64]
    return name or config.model_type


def _card(found: FolderModel) -> str:
    """Write the model card; it lists the differences between the bundle and the folder."""
    config, shape, cost = found.config, found.shape, _cost(found)
    served, whole = cost["served_flops"], cost["whole_window_flops"]
    return "\n".join(
        [
            f"# {config.model_type}, imported",
            "",
            f"Imported from a Hugging Face folder of {' / '.join(config.architectures) or config.model_type}: "
            f"{config.depth} of width {config.hidden_size}, {config.frames} frames at {shape.fps:g} "
            f"fps, {len(config.id2label)} classes. Its logits equal those of transformers.",
            "",
            *(f"- {note}" for note in found.notes),
            *(
                (
                    "- its labels are independent (multi-label): none, one or several are present at once. The folder "
                    "has no thresholds, so 0.5 applies to each; `thresholds` in spec.json sets others",
                )
                if config.activation == "sigmoid"
                else ()
            ),
            "",
            f"A prediction costs {served / 1e9:.3g} GFLOPs: the encoder for one new chunk, the head for the window. "
            f"Encoding all {shape.chunks} chunks again would cost {whole / 1e9:.3g} GFLOPs, {whole / served:.2f} times "
            "as much.",
            "",
            "**Data and metrics**: see the model's own card. The import measures nothing.",
            "",
            "**Licence**: the licence of the weights; see the model's own card.",
            "",
        ]
    )
