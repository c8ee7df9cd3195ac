"""ViViT's variants can be built in all sizes of the paper."""

from __future__ import annotations

import pytest
import torch
from support.model_kinds import parse_recipe

from training.models.vivit.recipe import SIZES

B16X2 = {"kind": "vivit", "size": "B", "patch": 16, "height": 224, "width": 224, "frames_per_chunk": 2, "chunks": 16}


@pytest.mark.parametrize("variant", ["joint", "factorised_encoder", "factorised_self", "factorised_dot"])
def test_every_size_of_the_paper_can_be_built(variant):
    parameters = []
    with torch.device("meta"):
        for size in SIZES:
            model = parse_recipe({**B16X2, "size": size, "variant": variant}).build(labels=400)
            parameters.append(sum(parameter.numel() for parameter in model.parameters()))
    assert parameters == sorted(parameters)
    assert parameters[3] > 300e6
