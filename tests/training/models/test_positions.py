"""Learned positions are interpolated when the size or the length changes."""

from __future__ import annotations

import pytest
import torch
from support.model_kinds import KINDS, parse_recipe, random_model, random_windows

from training.models.positions import Positions, resize_grid


def test_loading_weights_of_another_grid_interpolates_the_positions():
    old = random_model(KINDS["vivit-joint"])
    for changed in ({"chunks": 5}, {"height": 64}, {"chunks": 2, "width": 32}):
        words = {**KINDS["vivit-joint"], **changed}
        new = parse_recipe(words).build(labels=5).eval()
        new.load_state_dict(old.state_dict())
        assert torch.equal(new.head.positions.table[:, 0], old.head.positions.table[:, 0])
        with torch.inference_mode():
            assert new(random_windows(words)).isfinite().all()
    ramp = torch.arange(8.0).reshape(1, 8, 1)
    assert torch.allclose(resize_grid(ramp, (8,), (4,)).flatten(), torch.tensor([0.5, 2.5, 4.5, 6.5]))
    plane = torch.arange(6.0).reshape(1, 6, 1)
    repeated = resize_grid(plane, (2, 3), (4, 2, 3)).reshape(4, 6)
    assert torch.allclose(repeated, plane.flatten().expand(4, 6), atol=1e-6)


def test_the_same_grid_loads_unchanged_and_a_wrong_grid_is_refused():
    first = Positions(grid=(2, 3), dim=4, class_token=True)
    second = Positions(grid=(2, 3), dim=4, class_token=True)
    second.load_state_dict(first.state_dict())
    assert torch.equal(second.table, first.table)
    wrong = {**first.state_dict(), "grid": torch.tensor([4, 5], dtype=torch.int32)}
    with pytest.raises(RuntimeError, match="size mismatch"):
        Positions(grid=(2, 2), dim=4, class_token=True).load_state_dict(wrong)
