"""Import a folder whose labels the user gives in words, as a bundle."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import nn

from engines.arrays import U8
from engines.bundle import DEFAULT_THRESHOLD, SPEC_FILE, Bundle, load_bundle
from engines.errors import EngineError
from training.data.shape import Shape
from training.errors import FolderError, RecipeError, RunError
from training.export.front_matter import front_matter
from training.export.golden import CLEAR_LEAD, choose_golden_window, render_windows
from training.export.onnx import check_graph, export_bundle
from training.importing.limits import check_window
from training.importing.model import fit_config
from training.importing.processor import ImageProcessor, read_processor
from training.importing.words.card import write_card
from training.importing.words.config import LvtConfig, WordsConfig, read_words_config
from training.importing.words.model import VIDEOPRISM_TEMPERATURE, load_words_model
from training.importing.words.prompts import check_prompts
from training.importing.words.tokenizer import TextTokenizer

DEFAULT_FPS: Final = 2.0
DEFAULT_CHUNKS: Final = 8
"""CLIP and SigLIP read single frames; with these defaults a window has 8 frames and lasts 4 s."""
CANDIDATES: Final = 2
"""The number of golden windows to try; each costs the encoding of one window."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WordsOptions:
    """The options of an import with labels in words; None stands for the default of the model's kind.

    `encoder`: a bundle of the same checkpoint whose encoder is used again. `interpolate`: see `fit_config`.
    """

    templates: Sequence[str] = ()
    fps: float | None = None
    chunks: int | None = None
    temperature: float | None = None
    interpolate: bool = False
    encoder: Path | None = None
    independent: bool = False
    """Whether each label has a probability of its own (sigmoid), which only SigLIP was trained for."""


def import_words(folder: Path, output: Path, labels: Sequence[str], options: WordsOptions | None = None) -> Bundle:
    """Read `folder` (configuration, processor, tokenizer and weights) and write `output` with these `labels`.

    The logits of a window of one frame equal those of transformers, and so do those of each window of VideoPrism. An
    encoder graph that exists for the same checkpoint, in `output` or in `options.encoder`, is copied.

    Raises `RecipeError` for a wrong label or option, `FolderError` where the folder is incomplete or another model,
    `RunError` where a graph differs from the PyTorch model.
    """
    options = options or WordsOptions()
    prompts = check_prompts(labels, options.templates, least=1 if options.independent else 2)
    _check_options(options)
    config, processor, shape, notes = _read(folder, options)
    if options.independent and not config.model_type.startswith("siglip"):
        raise FolderError(
            f"{folder}: --independent: model_type={config.model_type} was trained to compare texts, so a single text "
            "has no probability; only SigLIP has one. Leave the option out"
        )
    tokens = TextTokenizer(folder, config).encode(prompts)
    words = load_words_model(
        folder, config, processor, tokens, temperature=options.temperature, interpolate=options.interpolate
    )
    if config.model_type == "videoprism" and options.temperature is None:
        notes += (
            f"the checkpoint has no temperature, so it is {VIDEOPRISM_TEMPERATURE:g}; --temperature gives another",
        )
    golden = _choose_golden(words.model, shape, len(prompts.labels), independent=options.independent)
    fields: dict[str, Any] = {
        "name": _name(output, config),
        "version": "1",
        "labels": prompts.labels,
        "height": shape.height,
        "width": shape.width,
        "resize": processor.resize,
        "fps": shape.fps,
        "frames_per_chunk": shape.frames_per_chunk,
        "chunks": shape.chunks,
        "activation": "sigmoid" if options.independent else "softmax",
    }
    card = write_card(
        config, prompts, words, shape, notes, folder=folder.resolve().name, independent=options.independent
    )
    return export_bundle(
        words.model,
        fields=fields,
        golden=golden,
        card=front_matter(name=fields["name"], licence="unknown") + card,
        path=output,
        encoder=_find_encoder(words.model.encoder, golden, output, options.encoder),
    )


def _check_options(options: WordsOptions) -> None:
    """Raise `RecipeError` for an option out of its range."""
    for name, value, low, high in (
        ("--fps", options.fps, 0.0, 240.0),
        ("--temperature", options.temperature, 1e-4, 100.0),
    ):
        if value is not None and not low < value <= high:
            raise RecipeError(f"{name} {value:g}: must be more than {low:g} and at most {high:g}")
    if options.chunks is not None and not 1 <= options.chunks <= 1024:
        raise RecipeError(f"--chunks {options.chunks}: must be 1 to 1024 frames in a window")


def _read(folder: Path, options: WordsOptions) -> tuple[WordsConfig, ImageProcessor, Shape, tuple[str, ...]]:
    """Read configuration and processor, and choose rate and window. Raises `FolderError`."""
    if not folder.is_dir():
        raise FolderError(f"{folder}: no such folder; give a folder that contains config.json")
    config = read_words_config(folder)
    vision = config.vision
    if isinstance(vision, LvtConfig):
        processor = read_processor(folder, vision.crop, any_size=options.interpolate)
        if options.chunks is not None:
            processor = dataclasses.replace(processor, frames=options.chunks)
        fitted = fit_config(folder, vision, processor, interpolate=options.interpolate)
        assert isinstance(fitted, LvtConfig)
        config = dataclasses.replace(config, vision=fitted)
        rates, chunks = (options.fps, processor.fps, fitted.fps), fitted.chunks
    elif options.interpolate:
        raise FolderError(f"{folder}: model_type={config.model_type}: --interpolate-positions is for VideoPrism alone")
    else:
        processor = read_processor(folder, (vision.size, vision.size))
        rates, chunks = (options.fps, processor.fps, DEFAULT_FPS), options.chunks or DEFAULT_CHUNKS
    shape = Shape(
        fps=next(rate for rate in rates if rate is not None),
        frames_per_chunk=1,
        chunks=chunks,
        height=processor.height,
        width=processor.width,
    )
    check_window(folder, shape)
    notes = processor.notes
    if options.fps is None and processor.fps is None:
        notes += (f"the folder has no frame rate, so it is {shape.fps:g} fps; --fps gives another",)
    return config, processor, shape, notes


def _choose_golden(model: nn.Module, shape: Shape, labels: int, *, independent: bool) -> U8:
    """Return the first window whose best class is clearly ahead, or the one with the largest lead.

    Unlike a trained model's window, it is not chosen by its uncertainty: a large encoder takes seconds for a window.
    """
    if independent:
        limits = np.full(labels, DEFAULT_THRESHOLD, np.float32)
        return choose_golden_window(model.eval(), render_windows(shape, count=CANDIDATES), limits)
    best: tuple[float, U8] | None = None
    for window in render_windows(shape, count=CANDIDATES):
        with torch.inference_mode():
            first, second = model(torch.from_numpy(window)[None]).softmax(dim=-1)[0].topk(2).values.tolist()
        if best is None or first - second > best[0]:
            best = (first - second, window)
        if best[0] >= CLEAR_LEAD:
            break
    assert best is not None
    return best[1]


def _find_encoder(encoder: nn.Module, golden: U8, output: Path, given: Path | None) -> Path | None:
    """Return an encoder graph that computes what `encoder` does, or None where `output` has no such graph.

    Raises `FolderError` if `given` is not such a bundle.
    """
    path = given or output
    if given is None and not (output / SPEC_FILE).is_file():
        return None
    try:
        bundle = load_bundle(path)
        if bundle.spec.chunk_shape != golden.shape[1:]:
            raise RunError(f"its frames are {bundle.spec.chunk_shape}, those of this import are {golden.shape[1:]}")
        with torch.inference_mode():
            shape = tuple(encoder(torch.from_numpy(golden[:1])).shape[1:])
        if bundle.spec.feature_shape != shape:
            raise RunError(f"its features have the shape {bundle.spec.feature_shape}, those of this import {shape}")
        # One frame tells two checkpoints apart; `export_bundle` compares the whole window.
        check_graph(encoder, torch.from_numpy(golden[:1]), bundle.encoder_path)
    except (EngineError, RunError) as error:
        if given is None:
            return None
        raise FolderError(
            f"--encoder {path}: not a bundle of this checkpoint ({error}); leave the option out to export the encoder"
        ) from error
    return bundle.encoder_path


def _name(output: Path, config: WordsConfig) -> str:
    """Return the name of the bundle's folder, restricted to the characters that a bundle's name may have."""
    name = re.sub(r"[^a-z0-9_-]+", "-", output.resolve().name.lower()).strip("-_")[:64]
    return name or config.model_type
