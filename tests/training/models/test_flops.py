"""Parameters and FLOPs agree with the ViViT paper."""

from __future__ import annotations

import pytest
import torch
from support.model_kinds import KINDS, parse_recipe, random_model, random_windows

from training.models.flops import ModelCost, compute_cost
from training.models.layers import full_last_layers

B16X2 = {"kind": "vivit", "size": "B", "patch": 16, "height": 224, "width": 224, "frames_per_chunk": 2, "chunks": 16}


def cost_of(words: dict, *, labels: int, whole: bool = True) -> ModelCost:
    recipe = parse_recipe(words)
    return compute_cost(
        lambda: recipe.build(labels=labels),
        chunks=recipe.chunks,
        frames_per_chunk=recipe.frames_per_chunk,
        height=recipe.height,
        width=recipe.width,
        whole=whole,
    )


@pytest.mark.parametrize(
    ("variant", "millions", "gflops"),
    [
        ("joint", 88.9, 455.2),
        ("factorised_encoder", 115.1, 284.4),
        ("factorised_self", 117.3, 372.3),
        ("factorised_dot", 88.9, 277.1),
    ],
)
def test_b16x2_has_the_parameters_and_flops_of_the_paper(variant, millions, gflops):
    """Arnab et al. 2021, table 2: 32 frames of 224 x 224, 400 classes."""
    cost = cost_of({**B16X2, "variant": variant}, labels=400)
    assert cost.parameters / 1e6 == pytest.approx(millions, rel=0.01)
    assert cost.window_flops / 1e9 == pytest.approx(gflops, rel=0.01)


def test_class_only_last_layers_save_flops_and_keep_the_logits():
    words = KINDS["vivit-joint"]
    model, x = random_model(words), random_windows(words)
    with torch.inference_mode():
        short = model(x)
        with full_last_layers(model):
            long = model(x)
    assert torch.allclose(short, long, atol=1e-5)
    assert cost_of(words, labels=5, whole=False).head_flops < 0.7 * cost_of(words, labels=5).head_flops
