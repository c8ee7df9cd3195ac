"""The attentive model's feature is the CNN's feature map, and its head depends on order and position."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file

from training.errors import RecipeError, RunError
from training.models.attentive import AttentiveModel, AttentiveRecipe

RECIPE = {
    "height": 64,
    "width": 96,
    "chunks": 4,
    "backbone": "mobilenetv2_050",
    "pooled_channels": 8,
    "dim": 16,
    "queries": 2,
}


def small(**changes: object) -> AttentiveModel:
    torch.manual_seed(0)
    model = AttentiveRecipe.model_validate(RECIPE | changes).build(labels=5)
    assert isinstance(model, AttentiveModel)
    return model.eval()


def random_windows() -> torch.Tensor:
    return torch.randint(0, 256, (2, 4, 1, 64, 96, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def test_whole_window_equals_chunks_encoded_one_at_a_time() -> None:
    model, window = small(), random_windows()
    with torch.inference_mode():
        features = torch.stack([model.encoder(window[:, i]) for i in range(4)], dim=1)
        assert features.shape == (2, 4, 2 * 3, 160)
        torch.testing.assert_close(model.head(features), model(window), atol=1e-5, rtol=1e-5)


def test_head_depends_on_order_and_position() -> None:
    """Reversed or mirrored feature maps give other logits."""
    model, window = small(), random_windows()
    with torch.inference_mode():
        features = model.features(window)
        logits = model.head(features)
        assert (model.head(features.flip(1)) - logits).abs().max() > 1e-4
        mirrored = features.reshape(2, 4, 2, 3, 160).flip(3).flatten(2, 3)
        assert (model.head(mirrored) - logits).abs().max() > 1e-6


def test_weights_are_read_from_a_file(tmp_path: Path) -> None:
    torch.manual_seed(7)
    source: Any = timm.create_model("mobilenetv2_050", num_classes=9)
    save_file(source.state_dict(), tmp_path / "weights.safetensors")
    model = small(weights=str(tmp_path / "weights.safetensors"))
    backbone: Any = model.encoder.backbone
    torch.testing.assert_close(backbone.conv_stem.weight, source.conv_stem.weight)
    frame = random_windows()[0, :1]
    with torch.inference_mode():
        expected = source.eval().blocks(source.bn1(source.conv_stem(frame[:, 0].permute(0, 3, 1, 2) / 127.5 - 1)))
        torch.testing.assert_close(model.encoder(frame), expected.flatten(2).transpose(1, 2), atol=1e-4, rtol=1e-4)
    fresh = AttentiveRecipe.model_validate(RECIPE | {"weights": "gone.safetensors"}).without_weights()
    assert fresh.build(labels=5) is not None


def test_invalid_weights_backbone_and_chunks_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="weights cannot be read"):
        small(weights=str(tmp_path / "none.safetensors"))
    with pytest.raises(RecipeError, match="no such model"):
        small(backbone="mobilenetv2_999")
    with pytest.raises(ValueError, match="frames_per_chunk"):
        AttentiveRecipe.model_validate(RECIPE | {"frames_per_chunk": 2})
