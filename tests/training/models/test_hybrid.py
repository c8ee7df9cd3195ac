"""The published hybrid matches Keras's example; both heads mask short clips; the backbone is read from a file."""

from __future__ import annotations

import pytest
import timm
import torch
from safetensors.torch import save_file
from support.model_kinds import KINDS, parse_recipe, random_windows

from training.errors import RecipeError, RunError
from training.models.flops import compute_cost
from training.models.hybrid import PublishedHead, StrongHead


def test_published_head_has_the_shape_and_parameters_of_keras():
    """Keras counts 4,237,321 parameters for 20 frames of 1,024 features and 5 classes."""
    head = PublishedHead(chunks=20, features=1024, dropout=0.5, labels=5)
    attention = 4 * (1024 * 1024 + 1024)  # Keras: key_dim 1024, one head
    mlp = (1024 * 4 + 4) + (4 * 1024 + 1024)
    norms, positions, classifier = 2 * 2 * 1024, 20 * 1024, 1024 * 5 + 5
    total = sum(parameter.numel() for parameter in head.parameters())
    assert total == attention + mlp + norms + positions + classifier == 4_237_321
    assert head.positions.table.shape == (1, 20, 1024)
    recipe = parse_recipe({"kind": "hybrid", "head": "published", "height": 128, "width": 128, "chunks": 20})
    cost = compute_cost(
        lambda: recipe.build(labels=5), chunks=20, frames_per_chunk=1, height=128, width=128, whole=True
    )
    assert (cost.feature, cost.head_parameters) == ((1024,), 4_237_321)


@pytest.mark.parametrize("head", ["published", "strong"])
def test_masked_chunks_do_not_affect_the_logits(head):
    torch.manual_seed(0)
    sizes = {"chunks": 6, "features": 16, "dropout": 0.5, "labels": 3}
    if head == "published":
        model: torch.nn.Module = PublishedHead(**sizes)
    else:
        model = StrongHead(dim=16, heads=2, layers=2, drop_path=0.0, **sizes)
    model.eval()
    features = torch.randn(2, 6, 16)
    mask = torch.tensor([[True] * 4 + [False] * 2, [True] * 6])
    other = features.clone()
    other[0, 4:] = 9.0
    with torch.inference_mode():
        a, b = model(features, mask), model(other, mask)
        assert torch.allclose(a[0], b[0], atol=1e-5), "a masked chunk changed the logits"
        assert torch.allclose(a[1], model(features)[1], atol=1e-5)
        assert not torch.allclose(a[0], model(features)[0], atol=1e-3)
        assert not torch.allclose(model(features)[0], model(other)[0], atol=1e-3)


def test_backbone_is_read_from_a_file_and_a_wrong_file_is_refused(tmp_path):
    words = {**KINDS["hybrid"], "backbone_kwargs": {"pad_type": "same"}}
    torch.manual_seed(1)
    source = timm.create_model("mobilenetv3_small_050", pretrained=False, num_classes=7, pad_type="same").eval()
    save_file(source.state_dict(), tmp_path / "good.safetensors")
    recipe = {**words, "weights": str(tmp_path / "good.safetensors"), "mean": [0.5] * 3, "std": [0.5] * 3}
    encoder = parse_recipe(recipe).build(labels=3).eval().encoder
    frames = random_windows(words)[:, 0]
    pixels = frames[:, 0].permute(0, 3, 1, 2) / 127.5 - 1
    with torch.inference_mode():
        expected = source.forward_head(source.forward_features(pixels), pre_logits=True)
        assert (encoder(frames) - expected).abs().max() < 1e-4
    # With six input channels, the three of the file are repeated.
    parse_recipe({**recipe, "frames_per_chunk": 2}).build(labels=3)
    cut = {name: value for name, value in source.state_dict().items() if "blocks.1" not in name}
    save_file(cut, tmp_path / "cut.safetensors")
    with pytest.raises(RecipeError, match="do not fit the backbone"):
        parse_recipe({**recipe, "weights": str(tmp_path / "cut.safetensors")}).build(labels=3)
    (tmp_path / "pickle.pth").write_bytes(b"\x80\x04")
    with pytest.raises(RunError, match="a pickle may run any code"):
        parse_recipe({**recipe, "weights": str(tmp_path / "pickle.pth")}).build(labels=3)
    (tmp_path / "torn.safetensors").write_bytes(b"torn")
    with pytest.raises(RunError, match="weights cannot be read"):
        parse_recipe({**recipe, "weights": str(tmp_path / "torn.safetensors")}).build(labels=3)
    with pytest.raises(RecipeError, match="timm has no such model"):
        parse_recipe({**words, "backbone": "mobilenet_unknown"}).build(labels=3)
