"""The attentive model: its feature is the CNN's map, and both graphs give the whole's numbers."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file

from training.errors import RecipeError, RunError
from training.models.attentive import AttentiveModel, AttentiveRecipe

WORDS = {
    "height": 64,
    "width": 96,
    "chunks": 4,
    "backbone": "mobilenetv2_050",
    "pooled_channels": 8,
    "dim": 16,
    "queries": 2,
}


def small(**words: object) -> AttentiveModel:
    torch.manual_seed(0)
    model = AttentiveRecipe.model_validate(WORDS | words).build(labels=5)
    assert isinstance(model, AttentiveModel)
    return model.eval()


def films() -> torch.Tensor:
    return torch.randint(0, 256, (2, 4, 1, 64, 96, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def test_chunk_by_chunk_is_the_whole_window() -> None:
    model, window = small(), films()
    with torch.inference_mode():
        features = torch.stack([model.encoder(window[:, i]) for i in range(4)], dim=1)
        assert features.shape == (2, 4, 2 * 3, 160)
        torch.testing.assert_close(model.head(features), model(window), atol=1e-5, rtol=1e-5)


def test_the_head_tells_order_and_place() -> None:
    """The same maps backwards, or mirrored, are another window."""
    model, window = small(), films()
    with torch.inference_mode():
        features = model.features(window)
        logits = model.head(features)
        assert (model.head(features.flip(1)) - logits).abs().max() > 1e-4
        mirrored = features.reshape(2, 4, 2, 3, 160).flip(3).flatten(2, 3)
        assert (model.head(mirrored) - logits).abs().max() > 1e-6


def test_weights_come_from_a_file_by_path(tmp_path: Path) -> None:
    torch.manual_seed(7)
    source: Any = timm.create_model("mobilenetv2_050", num_classes=9)
    save_file(source.state_dict(), tmp_path / "weights.safetensors")
    model = small(weights=str(tmp_path / "weights.safetensors"))
    backbone: Any = model.encoder.backbone
    torch.testing.assert_close(backbone.conv_stem.weight, source.conv_stem.weight)
    picture = films()[0, :1]
    with torch.inference_mode():
        expected = source.eval().blocks(source.bn1(source.conv_stem(picture[:, 0].permute(0, 3, 1, 2) / 127.5 - 1)))
        torch.testing.assert_close(model.encoder(picture), expected.flatten(2).transpose(1, 2), atol=1e-4, rtol=1e-4)
    without_weights = AttentiveRecipe.model_validate(WORDS | {"weights": "gone.safetensors"}).without_weights()
    assert without_weights.build(labels=5) is not None


def test_what_cannot_be_built_says_so(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="not weights that can be read"):
        small(weights=str(tmp_path / "none.safetensors"))
    with pytest.raises(RecipeError, match="no such model"):
        small(backbone="mobilenetv2_999")
    with pytest.raises(ValueError, match="frames_per_chunk"):
        AttentiveRecipe.model_validate(WORDS | {"frames_per_chunk": 2})
