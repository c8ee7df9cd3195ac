"""Build a folder's network and load its weights."""

from __future__ import annotations

from pathlib import Path

import torch

from training.errors import FolderError
from training.importing.checkpoint import read_state
from training.importing.config import FolderConfig, WindowAttentionConfig
from training.importing.networks import ImportedModel, build_window_attention
from training.importing.processor import ImageProcessor
from training.importing.state_dict import CheckpointTensors, convert_state
from training.weights import WEIGHTS_FILE, State


def build_model(config: FolderConfig, processor: ImageProcessor) -> ImportedModel:
    """Build the network that `config` describes, with fresh weights."""
    assert isinstance(config, WindowAttentionConfig)
    return build_window_attention(config, processor)


def load_model(folder: Path, config: FolderConfig, processor: ImageProcessor) -> ImportedModel:
    """Build the folder's network and load its weights. Raises `FolderError`."""
    with torch.device("meta"):  # the real network is built only when the folder's tensors have these sizes
        own = build_model(config, processor).state_dict()
    tensors = CheckpointTensors(read_state(folder), str(folder / WEIGHTS_FILE))
    state = _convert(config, tensors)
    tensors.check_all_used()
    for name, tensor in state.items():
        if tensor.shape != own[name].shape:
            raise FolderError(
                f"{folder}: {name} has shape {tuple(tensor.shape)}, but config.json implies {tuple(own[name].shape)}; "
                "config.json and model.safetensors belong to different models"
            )
    model = build_model(config, processor)
    model.load_state_dict(state)
    return model.eval()


def _convert(config: FolderConfig, tensors: CheckpointTensors) -> State:
    """Rename the checkpoint's tensors for the network. Raises `FolderError` for a missing tensor."""
    assert isinstance(config, WindowAttentionConfig)
    return convert_state(config, tensors)
