"""Build a folder's network and load its weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from training.errors import FolderError
from training.importing.checkpoint import read_state
from training.importing.config import FolderConfig, VideoPrismConfig, VJepa2Config, WindowAttentionConfig
from training.importing.folder import validate_config
from training.importing.networks import ImportedModel, build_window_attention
from training.importing.processor import ImageProcessor
from training.importing.state_dict import CheckpointTensors, convert_state
from training.importing.videoprism import build_videoprism, convert_videoprism
from training.importing.vjepa2 import build_vjepa2, convert_vjepa2
from training.weights import WEIGHTS_FILE, State

_Module = TypeVar("_Module", bound=nn.Module)


def fit_config(folder: Path, config: FolderConfig, processor: ImageProcessor, *, interpolate: bool) -> FolderConfig:
    """Return the configuration for the frames that the processor gives: their number and their size.

    V-JEPA 2 reads any number of frames. VideoPrism does with `interpolate`, which also allows another size: positions
    are then interpolated as transformers does with `interpolate_pos_encoding`. Raises `FolderError`.
    """
    frames = config.frames if processor.frames is None else processor.frames
    if interpolate and not isinstance(config, VideoPrismConfig):
        raise FolderError(f"{folder}: model_type={config.model_type}: --interpolate-positions is for VideoPrism alone")
    if interpolate:
        changes: dict[str, Any] = {"image_size": processor.crop, "num_frames": frames}
    elif isinstance(config, VJepa2Config) and not frames % config.tubelet_size:
        changes = {"frames_per_clip": frames}
    elif frames == config.frames:
        return config
    else:
        raise FolderError(
            f"{folder}: the processor samples num_frames={frames}, but the model reads {config.frames}; make them equal"
            + (", or give --interpolate-positions" if isinstance(config, VideoPrismConfig) else "")
        )
    return validate_config(type(config), {**config.model_dump(), **changes}, folder)


def build_model(config: FolderConfig, processor: ImageProcessor) -> ImportedModel:
    """Build the network that `config` describes, with fresh weights."""
    if isinstance(config, VideoPrismConfig):
        return build_videoprism(config, processor)
    if isinstance(config, VJepa2Config):
        return build_vjepa2(config, processor)
    assert isinstance(config, WindowAttentionConfig)
    return build_window_attention(config, processor)


def load_model(
    folder: Path, config: FolderConfig, processor: ImageProcessor, *, interpolate: bool = False
) -> ImportedModel:
    """Build the folder's network and load its weights; `interpolate` as in `fit_config`. Raises `FolderError`."""
    tensors = CheckpointTensors(read_state(folder), str(folder / WEIGHTS_FILE))
    state = _convert(config, tensors, interpolate=interpolate)
    tensors.check_all_used()
    return fill(lambda: build_model(config, processor), state, folder)


def fill(build: Callable[[], _Module], state: State, folder: Path) -> _Module:
    """Build a network and load `state` into it. Raises `FolderError` for a tensor of another shape."""
    with torch.device("meta"):  # the real network is built only when the folder's tensors have these sizes
        own = build().state_dict()
    for name, tensor in state.items():
        if tensor.shape != own[name].shape:
            raise FolderError(
                f"{folder}: {name} has shape {tuple(tensor.shape)}, but config.json implies {tuple(own[name].shape)}; "
                "config.json and model.safetensors belong to different models"
            )
    model = build()
    model.load_state_dict(state)
    return model.eval()


def _convert(config: FolderConfig, tensors: CheckpointTensors, *, interpolate: bool) -> State:
    """Rename the checkpoint's tensors for the network. Raises `FolderError` for a missing tensor."""
    if isinstance(config, VideoPrismConfig):
        return convert_videoprism(config, tensors, interpolate=interpolate)
    if isinstance(config, VJepa2Config):
        return convert_vjepa2(config, tensors)
    assert isinstance(config, WindowAttentionConfig)
    return convert_state(config, tensors)
