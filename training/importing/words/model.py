"""Build encoder and head of a model with a text tower, and compute the texts' embeddings."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.errors import FolderError
from training.importing.checkpoint import read_state
from training.importing.model import fill
from training.importing.networks import ImportedModel
from training.importing.processor import ImageProcessor
from training.importing.state_dict import CheckpointTensors
from training.importing.videoprism import SpatialEncoder, TemporalHead
from training.importing.words.config import LvtConfig, WordsConfig
from training.importing.words.layers import CosineClassifier
from training.importing.words.state import convert_text, convert_vision, pop_scale
from training.importing.words.towers import (
    ClipImageTower,
    ClipTextTower,
    FrameAverageHead,
    SiglipImageTower,
    SiglipTextTower,
    VideoPrismTextTower,
)
from training.weights import WEIGHTS_FILE

BATCH: Final = 64
VIDEOPRISM_TEMPERATURE: Final = 0.01
"""VideoPrism's checkpoints have no temperature; its authors' example uses this one, which is also CLIP's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WordsModel:
    """The network of a bundle with labels in words; logits = cosine / `temperature` + `bias`."""

    model: ImportedModel
    temperature: float
    bias: float


def build_words_model(config: WordsConfig, processor: ImageProcessor, *, labels: int) -> ImportedModel:
    """Build encoder and head with fresh weights."""
    vision = config.vision
    if isinstance(vision, LvtConfig):
        classify = CosineClassifier(dim=vision.hidden_size, labels=labels)
        head = TemporalHead(vision, classify, auxiliary=vision.num_auxiliary_layers)
        return ImportedModel(encoder=SpatialEncoder(vision, processor), head=head)
    clip = config.model_type == "clip"
    return ImportedModel(
        encoder=(ClipImageTower if clip else SiglipImageTower)(vision, processor),
        head=FrameAverageHead(dim=vision.hidden_size, embedding=_width(config), project=clip, labels=labels),
    )


def load_words_model(
    folder: Path,
    config: WordsConfig,
    processor: ImageProcessor,
    tokens: list[list[list[int]]],
    *,
    temperature: float | None = None,
    interpolate: bool = False,
) -> WordsModel:
    """Load the folder's towers, and put the texts' embeddings into the head; `temperature` replaces the checkpoint's.

    `tokens`: token numbers of each text of each label. Raises `FolderError` where the weights do not fit.
    """
    tensors = CheckpointTensors(read_state(folder), str(folder / WEIGHTS_FILE))
    words = convert_text(config, tensors)
    scale, bias = pop_scale(config, tensors)
    state = convert_vision(config, tensors, interpolate=interpolate)
    tensors.check_all_used()
    if temperature is None:
        temperature = VIDEOPRISM_TEMPERATURE if scale is None else 1 / scale
    tower = fill(lambda: _text_tower(config), words, folder)
    texts = embed_texts(tower, tokens)
    if not torch.isfinite(texts).all():
        raise FolderError(
            f"{folder}: the text tower gives values that are not finite numbers; download the weights again"
        )
    del words, tower
    state |= {
        "head.classify.compare.weight": texts / temperature,
        "head.classify.compare.bias": torch.full((len(tokens),), bias),
    }
    model = fill(lambda: build_words_model(config, processor, labels=len(tokens)), state, folder)
    return WordsModel(model=model, temperature=temperature, bias=bias)


def embed_texts(tower: nn.Module, tokens: list[list[list[int]]]) -> Tensor:
    """Return one normalised embedding per label (K, E): the mean of the normalised embeddings of its texts.

    Averaging templates is section 3.1.4 of CLIP's paper.
    """
    places: dict[int, list[tuple[int, list[int]]]] = defaultdict(list)
    for label, texts in enumerate(tokens):
        for text in texts:
            places[len(text)].append((label, text))  # texts of one length need no padding
    sums: dict[int, Tensor] = {}
    with torch.no_grad():
        for same in places.values():
            for begin in range(0, len(same), BATCH):
                part = same[begin : begin + BATCH]
                embedded = F.normalize(tower(torch.tensor([text for _, text in part])), dim=-1)
                for (label, _), embedding in zip(part, embedded, strict=True):
                    sums[label] = sums[label] + embedding if label in sums else embedding.clone()
        return F.normalize(torch.stack([sums[label] for label in range(len(tokens))]), dim=-1)


def _width(config: WordsConfig) -> int:
    """Return the width of the embeddings of both towers."""
    if config.model_type == "clip":
        return config.projection_dim
    return config.vision.hidden_size


def _text_tower(config: WordsConfig) -> nn.Module:
    """Build the text tower with fresh weights."""
    if config.model_type == "videoprism":
        return VideoPrismTextTower(config.text)
    if config.model_type == "clip":
        return ClipTextTower(config.text, embedding=config.projection_dim)
    return SiglipTextTower(config.text, embedding=config.text.projection_size or config.text.hidden_size)
