"""The optimizer and its schedule are those of the recipe."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from training.errors import RecipeError
from training.fit.optimizer import make_optimiser
from training.recipe import OptimiserRecipe, parse_recipe


def rates_and_weights(steps: int, **keys: Any) -> tuple[list[float], torch.Tensor]:
    """Return the learning rate of each step, and the weight after the last step, of the gradient 1 from weight 1."""
    model = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(1.0)
    recipe = OptimiserRecipe.model_validate({"learning_rate": 0.1, "warmup_steps": 2, "steps": 4, "batch": 1, **keys})
    made = make_optimiser(model, [], recipe)
    rates = []
    for _ in range(steps):
        rates.append(made["optimizer"].param_groups[0]["lr"])
        model.weight.grad = torch.ones_like(model.weight)
        made["optimizer"].step()
        made["lr_scheduler"]["scheduler"].step()
    return rates, model.weight.detach()


def test_constant_schedule_keeps_the_rate_after_the_warmup() -> None:
    assert rates_and_weights(4, schedule="constant")[0] == pytest.approx([0.05, 0.1, 0.1, 0.1])
    assert rates_and_weights(3, schedule="constant", warmup_steps=0)[0] == pytest.approx([0.1] * 3)
    assert rates_and_weights(4)[0] == pytest.approx([0.05, 0.1, 0.1, 0.05])


def test_adam_is_that_of_the_published_hybrid() -> None:
    """Keras' Adam: a gradient that stays the same moves the weight by the rate in each step, without decay."""
    _, weight = rates_and_weights(3, kind="adam", schedule="constant", warmup_steps=0)
    assert weight.item() == pytest.approx(0.7, abs=1e-5)
    _, decayed = rates_and_weights(3, kind="adamw", schedule="constant", warmup_steps=0)
    assert decayed.item() < 0.69, "AdamW also decays the weight"


def test_muon_gives_all_directions_of_a_matrix_the_same_size() -> None:
    """Also for a gradient of one direction a hundred times as large; a small matrix keeps AdamW."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(96, 64, bias=False), nn.Linear(64, 8, bias=False))
    recipe = OptimiserRecipe(kind="muon", learning_rate=0.1, warmup_steps=0, steps=4, batch=1, schedule="constant")
    optimiser = make_optimiser(model, [], recipe)["optimizer"]
    before = [parameter.detach().clone() for parameter in model.parameters()]
    left, _, right = torch.linalg.svd(torch.randn(64, 96), full_matrices=False)
    gradients = [left * torch.logspace(0, -2, 64) @ right, torch.randn(8, 64)]
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        parameter.grad = gradient.clone()
    optimiser.step()
    (large, small), decay = (
        [
            (old * (1 - 0.1 * recipe.weight_decay) - p.detach())
            for old, p in zip(before, model.parameters(), strict=True)
        ],
        optimiser.param_groups[0]["weight_decay"],
    )
    assert decay == recipe.weight_decay
    sizes = torch.linalg.svdvals(large) / (0.1 * 0.2 * 96**0.5)
    assert 0.6 < sizes.min() < sizes.max() < 1.3
    assert torch.diagonal(left.T @ large @ right.T).min() > 0, "each direction follows its gradient"
    assert small == pytest.approx(0.1 * torch.sign(gradients[1]), abs=1e-3), "AdamW's first step"
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), gradients, strict=True))


def test_a_run_with_muon_continues_from_its_state() -> None:
    """The momentum is in the optimiser's state: two steps with a reload between give the same weights as without."""
    recipe = OptimiserRecipe(kind="muon", learning_rate=0.1, warmup_steps=0, steps=4, batch=1)
    ends = []
    for reloaded in (False, True):
        torch.manual_seed(0)
        model = nn.Linear(64, 64)
        optimiser = make_optimiser(model, [], recipe)["optimizer"]
        for step in range(3):
            if reloaded and step == 1:
                state = optimiser.state_dict()
                optimiser = make_optimiser(model, [], recipe)["optimizer"]
                optimiser.load_state_dict(state)
            model.weight.grad, model.bias.grad = torch.randn(64, 64), torch.randn(64)
            optimiser.step()
        ends.append(model.weight.detach())
    assert torch.equal(*ends)


def test_weight_decay_of_adam_is_refused(tiny_recipe_tree: dict[str, Any]) -> None:
    tiny_recipe_tree["optimiser"] |= {"kind": "adam"}
    assert parse_recipe(tiny_recipe_tree, where="test").optimiser.weight_decay == 0
    tiny_recipe_tree["optimiser"] |= {"weight_decay": 0.1}
    with pytest.raises(RecipeError, match=r"weight_decay=0\.1: kind: adam has none; remove it, or give kind: adamw"):
        parse_recipe(tiny_recipe_tree, where="test")
