"""Values that no bundle can hold are refused before training."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.clip_recipes import clip_recipe
from torch import nn

from training.errors import DataError, RunError
from training.fit.bundle_limits import check_exportable, check_graph_size


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (("a", "x" * 2000), r"label 'x+' \(2000 characters\): .*shorten it"),
        ([str(i) for i in range(10_001)], "10001 labels: .*10000"),
        ([f"{i:0250}" for i in range(9000)], "9000 labels: .* bytes of text, at most"),
    ],
)
def test_labels_that_no_bundle_can_hold_are_refused(films: Path, labels: list[str], message: str) -> None:
    recipe = clip_recipe(films)
    check_exportable(recipe, ("a", "b"))
    with pytest.raises(DataError, match=message):
        check_exportable(recipe, labels)


def test_weights_that_no_graph_can_hold_are_refused() -> None:
    check_graph_size(nn.Linear(2, 2), "head")
    with torch.device("meta"), pytest.raises(RunError, match=r"head: 4\.0 GB of weights, at most 2\.1"):
        check_graph_size(nn.Linear(1_000_000, 1000), "head")
