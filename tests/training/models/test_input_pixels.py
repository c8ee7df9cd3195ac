"""Grey input reads one channel, and differences do not depend on brightness."""

from __future__ import annotations

import torch
from support.model_kinds import KINDS, random_model, random_windows


def test_grey_reads_one_channel_and_differences_ignore_brightness():
    grey, words = random_model(KINDS["vivit-grey"]), KINDS["vivit-grey"]
    x = random_windows(words)
    other = x.clone()
    other[..., 1:] = 0
    with torch.inference_mode():
        assert torch.equal(grey(x), grey(other))
    words = {**KINDS["hybrid-motion"], "input": "difference"}
    model = random_model(words)
    x = random_windows(words) // 2
    with torch.inference_mode():
        assert torch.allclose(model(x), model(x + 100), atol=1e-4)
