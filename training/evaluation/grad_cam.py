"""Find the parts of a CNN's last feature maps that raise a label's logit: Grad-CAM (Selvaraju et al. 2017)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from training.errors import RunError
from training.models import ClipModel
from training.models.attentive import AttentiveModel
from training.models.conv_transformer import ConvTransformer
from training.models.hybrid import Hybrid


def has_feature_maps(model: ClipModel) -> bool:
    """Tell whether the model's encoder is a CNN that `grad_cam` supports. An image transformer is not a CNN."""
    if isinstance(model, Hybrid):
        return not hasattr(model.encoder.backbone, "patch_embed")
    return isinstance(model, (AttentiveModel, ConvTransformer))


def grad_cam(model: ClipModel, chunks: Tensor, label: int) -> Tensor:
    """Return the heat (T, h, w), at least 0, of a window (T, t, H, W, 3) uint8 for the logit of `label`.

    The feature maps are the last ones of the encoder that have more than one row and column. Each channel counts by the
    mean of the logit's gradient in it. Raises `RunError` if there are none.
    """
    found: list[Tensor] = []

    def keep(module: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.ndim == 4 and min(output.shape[2:]) > 1:
            found[:] = [output]

    handles = [part.register_forward_hook(keep) for part in model.encoder.modules()]
    frozen = [parameter for parameter in model.parameters() if not parameter.requires_grad]
    try:
        for parameter in frozen:
            parameter.requires_grad_(True)
        with torch.enable_grad():
            logits: Tensor = model(chunks[None])
            if not found:
                raise RunError(
                    f"{type(model).__name__}: its encoder has no feature maps of several rows and columns; give "
                    "--method occlusion"
                )
            maps = found[0]
            (gradient,) = torch.autograd.grad(logits[0, label], maps)
    finally:
        for handle in handles:
            handle.remove()
        for parameter in frozen:
            parameter.requires_grad_(False)
    heat = (gradient.mean(dim=(2, 3), keepdim=True) * maps).sum(dim=1).relu().detach()  # (N, h, w)
    return heat.reshape(len(chunks), -1, *heat.shape[1:]).mean(dim=1)
