"""A small checkpoint as transformers saves it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save a small VideoMAE with three outputs, in one file. Tests must not change its folder."""
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("hf") / "saved"
    torch.manual_seed(2)
    config = transformers.VideoMAEConfig(
        image_size=32, num_frames=4, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64
    )
    config.id2label = {0: "clap", 1: "wave", 2: "nothing"}
    config.label2id = {name: number for number, name in config.id2label.items()}
    transformers.VideoMAEForVideoClassification(config).save_pretrained(folder)
    size = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    transformers.VideoMAEImageProcessor(**size).save_pretrained(folder)
    return folder
