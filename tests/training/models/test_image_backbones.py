"""A ViViT starts from the weights of an image ViT."""

from __future__ import annotations

import pytest
import timm
import torch
from safetensors.torch import save_file
from support.model_kinds import VIVIT, parse_recipe, random_windows

from training.errors import RecipeError


@pytest.fixture(scope="module")
def image_vit(tmp_path_factory):
    """Create a small image ViT of timm, and a file with its weights."""
    torch.manual_seed(5)
    words = {"img_size": 32, "patch_size": 16, "embed_dim": 32, "depth": 2, "num_heads": 2, "num_classes": 0}
    model = timm.create_model("vit_tiny_patch16_224", pretrained=False, **words).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    path = tmp_path_factory.mktemp("weights") / "vit.safetensors"
    save_file(model.state_dict(), path)
    return model, path


@pytest.mark.parametrize("inflation", ["central", "filter"])
def test_inflated_encoder_equals_the_image_model_on_a_still_frame(image_vit, inflation):
    model, path = image_vit
    words = {**VIVIT, "width": 32, "image_vit": str(path), "inflation": inflation}
    video = parse_recipe(words).build(labels=3).eval()
    frames = random_windows(words)[:, 0, :1].expand(-1, 2, -1, -1, -1)
    pixels = frames[:, 0].permute(0, 3, 1, 2) / 127.5 - 1
    with torch.inference_mode():
        expected = model.forward_features(pixels)[:, 0]
        assert (video.encoder(frames.contiguous()) - expected).abs().max() < 1e-4


@pytest.mark.parametrize("variant", ["joint", "factorised_self", "factorised_dot"])
def test_every_variant_copies_the_layers_of_an_image_model(image_vit, variant):
    model, path = image_vit
    words = {**VIVIT, "width": 48, "variant": variant, "image_vit": str(path)}
    video = parse_recipe(words).build(labels=3)
    layer = video.head.stack.layers[1] if variant == "joint" else video.head.layers[1]
    assert torch.equal(layer.attention.k.weight, model.blocks[1].attn.qkv.weight[32:64])
    assert torch.equal(layer.mlp[2].bias, model.blocks[1].mlp.fc2.bias)
    if variant == "factorised_self":
        assert layer.time_attention.out.weight.abs().max() == 0
        assert layer.time_attention.v.weight.abs().max() > 0
    fresh = parse_recipe(words).without_weights()
    assert fresh.image_vit is None
    assert fresh.build(labels=3).state_dict().keys() == video.state_dict().keys()


def test_weights_that_do_not_fit_are_refused(image_vit, tmp_path):
    _, path = image_vit
    for changes, message in (
        ({"dim": 48}, "patches are"),
        ({"layers": 3}, "depth in layers is 2"),
        ({"patch": 8}, "patches are"),
        ({"frames_per_chunk": 2, "input": "difference"}, "reads no frames"),
    ):
        with pytest.raises(RecipeError, match=message):
            parse_recipe({**VIVIT, "image_vit": str(path), **changes}).build(labels=3)
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(RecipeError, match="not an image ViT"):
        parse_recipe({**VIVIT, "image_vit": str(tmp_path / "other.safetensors")}).build(labels=3)
