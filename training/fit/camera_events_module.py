"""Train camera-events: auxiliary targets for each chunk, PatchDropout, and false alarms as a figure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.builtin.camera_events import LABELS
from training.builtin.camera_events.footage_cache import STATES
from training.builtin.camera_events.targets import CHANGES, COVER_MAP, THUMBNAIL
from training.data.batches import Batch
from training.fit.lightning_module import ClipModule
from training.models import ClipModel
from training.models.compact_vivit import FactorisedViViT, VivitFactorisedRecipe
from training.recipe import Recipe

CHUNK_TARGETS = (len(STATES), math.prod(THUMBNAIL), math.prod(COVER_MAP))
"""Numbers of the targets of each kind that a chunk's feature predicts. Each kind has the same weight in the loss."""


class CameraEventsModule(ClipModule):
    """A `ClipModule` that also learns the camera's motion and the frames' quality in each chunk.

    For most of the training the encoder sees only some of the patches (PatchDropout).
    """

    def __init__(
        self,
        recipe: Recipe,
        model: ClipModel,
        *,
        labels: Sequence[str],
        truth: npt.NDArray[np.int64],
        aux_names: Sequence[str] = (),
        positives: npt.NDArray[np.float64] | None = None,
    ) -> None:
        super().__init__(recipe, model, labels=labels, truth=truth, aux_names=aux_names, positives=positives)
        section = recipe.model
        assert isinstance(section, VivitFactorisedRecipe)  # the recipe allows no other kind of model
        assert isinstance(model, FactorisedViViT)
        self.vivit = [model]  # in a list, because the module already contains it as `model`
        self.chunk_predictor = nn.Linear(section.dim, sum(CHUNK_TARGETS))
        self.change_predictor = nn.Linear(section.dim, len(CHANGES)) if section.changes else None

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Compute the cross-entropy of the label, and the regression of the auxiliary targets of each chunk."""
        (model,), loss, targets = self.vivit, self.recipe.loss, batch["aux_targets"]
        keep = None
        if loss.patch_keep < 1 and self.global_step / self.recipe.optimiser.steps < loss.all_patches_from:
            patches = model.encoder.patches
            keep = torch.randperm(patches)[: max(round(patches * loss.patch_keep), 1)].sort().values
        features = model.features(frames=batch["frames"], keep=keep)
        logits, changes = model.head.with_differences(features)
        predicted = self.chunk_predictor(features).float()
        *chunk_targets, of_changes = torch.split(targets, [*CHUNK_TARGETS, len(CHANGES)], dim=-1)
        pairs = zip(torch.split(predicted, list(CHUNK_TARGETS), dim=-1), chunk_targets, strict=True)
        aux = torch.stack([masked_smooth_l1(*pair) for pair in pairs]).sum()
        if self.change_predictor is not None and changes is not None:
            aux = aux + masked_smooth_l1(self.change_predictor(changes).float(), of_changes)
        return {
            "label": F.cross_entropy(logits.float(), batch["target"], label_smoothing=loss.label_smoothing),
            "aux": self.aux_weight * aux,
        }

    def compute_metrics(self, summed: npt.NDArray[np.float32]) -> dict[str, Any]:
        """Compute the figures, with the share of normal windows that are called something else (false alarms)."""
        result = super().compute_metrics(summed)
        recall = result["per_class"][LABELS[0]]["recall"]
        return {**result, "false_alarms": 0.0 if recall is None else 1 - recall}


def masked_smooth_l1(predicted: Tensor, targets: Tensor) -> Tensor:
    """Return the mean smooth L1 loss over the targets that are not NaN."""
    known = ~torch.isnan(targets)
    loss = F.smooth_l1_loss(predicted, torch.nan_to_num(targets), reduction="none", beta=0.5)
    return (loss * known).sum() / known.sum().clamp(min=1)
