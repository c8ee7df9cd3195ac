"""Every kind of model gives the same logits for a whole window as for its chunks, encoded one at a time."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from support.model_kinds import KINDS, VIVIT, parse_recipe, random_model, random_windows

from training.models import KINDS as REGISTERED


def test_support_has_a_recipe_of_every_kind():
    assert {words["kind"] for words in KINDS.values()} == set(REGISTERED)


@pytest.mark.parametrize("kind", KINDS)
def test_whole_window_equals_chunks_encoded_one_at_a_time(kind):
    model, x = random_model(KINDS[kind]), random_windows(KINDS[kind], count=3)
    with torch.inference_mode():
        whole = model(x)
        features = torch.stack([model.encoder(x[:, i]) for i in range(x.shape[1])], dim=1)
        split = model.head(features)
        swapped = model(x.flip(1))
    assert whole.shape == (3, 5)
    assert (whole - split).abs().max() < 1e-5 * max(whole.abs().max(), 1)
    assert whole.std(dim=0).max() > 1e-3, "all windows have the same logits, so the comparison above proves nothing"
    order = (whole - swapped).abs().max()
    assert order < 1e-6 if kind == "motion" else order > 1e-5, "only the motion model ignores the order of chunks"


@pytest.mark.parametrize("kind", KINDS)
def test_eval_is_deterministic_and_every_parameter_gets_a_gradient(kind):
    model, x = random_model(KINDS[kind]), random_windows(KINDS[kind])
    with torch.inference_mode():
        assert torch.equal(model(x), model(x))
    model.train()
    (model(x) * torch.randn(2, 5)).sum().backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []
    backbone = {id(parameter) for parameter in model.backbone_parameters()}
    assert bool(backbone) == (kind != "motion"), "all encoders have parameters except the motion model's"
    assert backbone < {id(parameter) for parameter in model.parameters()}


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ({"kind": "lstm"}, "'lstm' found using 'kind' does not match"),
        ({**VIVIT, "height": 40}, "height=40"),
        ({**VIVIT, "heads": 5}, "heads=5"),
        ({**VIVIT, "variant": "factorised_dot", "heads": 1}, "give 2 or more"),
        ({**VIVIT, "variant": "factorised_self", "pool": "class"}, "no class token"),
        ({**VIVIT, "variant": "joint", "temporal_layers": 2}, "temporal_layers=2"),
        ({**VIVIT, "input": "difference", "frames_per_chunk": 1}, "frames_per_chunk of 2"),
        ({**KINDS["hybrid-published"], "dim": 8}, "dim: head published"),
        ({**KINDS["conv"], "kernel": 2}, "kernel=2"),
        ({**KINDS["conv"], "blocks": [1]}, "one number for each"),
        ({**KINDS["conv"], "patch": 4}, "Extra inputs"),
    ],
)
def test_invalid_recipe_is_refused_with_key_and_value(recipe, message):
    with pytest.raises(ValidationError) as caught:
        parse_recipe(recipe)
    assert message in str(caught.value)
