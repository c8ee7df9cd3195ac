"""An image model's patch embedding is inflated to several frames."""

from __future__ import annotations

import torch

from training.models.vivit.tubelets import Tubelets


def test_central_inflation_ignores_the_other_frames_and_filter_does_not():
    image = torch.randn(8, 3, 4, 4), torch.zeros(8)
    frames = torch.randint(0, 256, (1, 4, 8, 8, 3), dtype=torch.uint8)
    changed = frames.clone()
    changed[:, 0] = 0
    for inflation, ignores in (("central", True), ("filter", False)):
        tubelets = Tubelets(height=8, width=8, frames=4, patch=4, dim=8)
        tubelets.start_from(*image, inflation)
        with torch.inference_mode():
            assert torch.allclose(tubelets(frames), tubelets(changed), atol=1e-6) == ignores
