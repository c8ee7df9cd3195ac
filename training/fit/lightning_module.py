"""The Lightning module of a training run: losses, validation and the average of the weights."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import lightning
import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engines.bundle import Activation
from training.data.batches import Batch, rank, world_size
from training.errors import LossError, OutOfMemoryError
from training.fit.metrics import scores
from training.fit.multi_label_metrics import multi_label_scores
from training.fit.optimizer import backbone_modules, backbone_norms, make_optimiser, new_ema
from training.models import ClipModel
from training.recipe import Recipe

MAX_POS_WEIGHT = 20.0
"""Largest weight of rare labels with `loss.pos_weight: balanced`."""
ENCODE_BATCH = 256
"""The most chunks of a validation batch that are encoded at once."""


class ClipModule(lightning.LightningModule):
    """A model in training, with its losses and its figures on the validation clips.

    `truth`: (C,) the classes of the validation clips, or (C, K) of zeros and ones where labels are independent.
    `aux_names`: the columns of a batch's auxiliary targets; x and y are regressed, `visible` is classified as yes or
    no. `positives`: (K,) the share of each label in the training windows; None without training.
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
        super().__init__()
        self.recipe, self.labels, self.aux_names = recipe, tuple(labels), tuple(aux_names)
        self.model = model
        self.ema = None if recipe.optimiser.ema_decay is None else new_ema(model, recipe.optimiser.ema_decay)
        self.aux_predictor = self._new_aux_predictor() if self.aux_names and not predicts_aux(model) else None
        self.truth = truth
        # The last column counts the windows of each clip.
        self.register_buffer("probability_sums", torch.zeros(len(truth), len(labels) + 1), persistent=False)
        self.register_buffer("pos_weight", self._new_pos_weight(positives), persistent=False)
        self.metrics: dict[str, Any] = {}
        self.history: list[dict[str, Any]] = []
        self._loss_sums: dict[str, Tensor] = {}
        self._summed_steps = 0
        self._backbone = list(model.backbone_parameters())
        self._backbone_modules = backbone_modules(model, self._backbone)
        self._backbone_norms = backbone_norms(model, self._backbone)

    @property
    def evaluated_model(self) -> nn.Module:
        """Return the weights that are evaluated and kept: the moving average, where the recipe asks for one."""
        return self.model if self.ema is None else self.ema.module

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Compute the parts of one step's loss; training minimises their sum."""
        features, aux = self._encode(batch)
        logits = self.model.head(features).float()
        parts = {"label": self._label_loss(logits, batch["target"])}
        if aux is not None and self.recipe.loss.aux_weight:
            parts["aux"] = self.aux_weight * self._aux_loss(aux.float(), batch["aux_targets"])
        return parts

    def _label_loss(self, logits: Tensor, target: Tensor) -> Tensor:
        smoothing = self.recipe.loss.label_smoothing
        if self.recipe.activation == "softmax":
            return F.cross_entropy(logits, target, label_smoothing=smoothing)
        smoothed = target * (1 - smoothing) + smoothing / 2
        weight = torch.as_tensor(self.pos_weight)
        return F.binary_cross_entropy_with_logits(logits, smoothed, pos_weight=weight)

    def _new_pos_weight(self, positives: npt.NDArray[np.float64] | None) -> Tensor:
        """Return the weight (K,) of clips that have a label, in the loss of this label."""
        weight = self.recipe.loss.pos_weight
        if weight != "balanced":
            return torch.full((len(self.labels),), float(weight))
        if positives is None:  # nothing is trained
            return torch.ones(len(self.labels))
        share = torch.from_numpy(positives).float().clamp(1e-6, 1 - 1e-6)
        return ((1 - share) / share).clamp(1 / MAX_POS_WEIGHT, MAX_POS_WEIGHT)

    @property
    def aux_weight(self) -> float:
        """Return the weight of the auxiliary loss, which falls to a tenth during training."""
        return self.recipe.loss.aux_weight * max(0.1, 1 - self.global_step / self.recipe.optimiser.steps)

    def on_train_batch_start(self, batch: Batch, index: int) -> None:
        """Freeze or unfreeze the backbone."""
        frozen_steps = self.recipe.optimiser.frozen_steps
        if frozen_steps:
            unfrozen = self.global_step >= frozen_steps
            for module in self._backbone_modules:
                module.train(unfrozen)
            for norm in self._backbone_norms:
                norm.eval()
        # Several processes agree at the start on the gradients that they exchange. There the backbone keeps its
        # gradients, and only its learning rate is zero.
        if world_size() == 1 and self._backbone:
            wanted = self.global_step >= frozen_steps
            if self._backbone[0].requires_grad != wanted:
                for parameter in self._backbone:
                    parameter.requires_grad_(wanted)

    def training_step(self, batch: Batch, index: int) -> Tensor:
        """Compute one step's loss.

        Raises `LossError` when it is not finite, and `OutOfMemoryError` that names the key to lower.
        """
        try:
            parts = self.losses(batch)
        except (RuntimeError, MemoryError) as error:
            if is_out_of_memory(error):
                raise self._out_of_memory() from error
            raise
        total = torch.stack(list(parts.values())).sum()
        finite = bool(torch.isfinite(total))
        if not self.trainer.strategy.reduce_boolean_decision(finite, all=True):
            raise LossError(self._not_finite(total, parts))
        for name, part in parts.items():
            self._loss_sums[name] = self._loss_sums.get(name, torch.zeros_like(part.detach())) + part.detach()
        self._summed_steps += 1
        if self.global_step % 50 == 0:
            losses = " ".join(f"{name} {part.item():.3f}" for name, part in parts.items())
            self._print_progress(f"step {self.global_step}: {losses}")
        self.log("loss", total.detach(), prog_bar=True, logger=False)
        return total

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Compute the gradients, which need the most memory of a step. Raises `OutOfMemoryError`."""
        try:
            super().backward(loss, *args, **kwargs)
        except (RuntimeError, MemoryError) as error:
            if is_out_of_memory(error):
                raise self._out_of_memory() from error
            raise

    def on_train_batch_end(self, outputs: Any, batch: Batch, index: int) -> None:
        """Update the average of the weights."""
        if self.ema is not None:
            self.ema.update_parameters(self.model)

    def on_validation_epoch_start(self) -> None:
        """Reset the sums of the last validation."""
        self._sums.zero_()

    def validation_step(self, batch: Batch, index: int) -> None:
        """Add up the probabilities of each clip's windows."""
        probabilities = predict_proba(self.evaluated_model, batch, self.recipe.activation)
        self._sums.index_add_(0, batch["clips"], with_count(probabilities).to(self._sums.dtype))

    def on_validation_epoch_end(self) -> None:
        """Log the figures, of which one chooses the best checkpoint, and extend the learning curve."""
        if world_size() > 1:
            torch.distributed.all_reduce(self._sums)
        self.metrics = self.compute_metrics(self._sums.cpu().numpy())
        numbers = {name: value for name, value in self.metrics.items() if isinstance(value, float)}
        self.log_dict(
            {f"validation_{name}" if name == "loss" else name: value for name, value in numbers.items()},
            sync_dist=world_size() > 1,
            prog_bar=True,
        )
        steps = max(self._summed_steps, 1)
        trained = {f"train_{name}": float(total) / steps for name, total in self._loss_sums.items()}
        self._loss_sums, self._summed_steps = {}, 0
        self.history.append({"step": self.global_step, **trained, **numbers})
        names = ("top1", "balanced_accuracy", "map", "macro_f1", "loss")
        shown = " ".join(f"{name} {numbers[name]:.3f}" for name in names if name in numbers)
        self._print_progress(f"step {self.global_step}: validation: {shown}")

    def compute_metrics(self, summed: npt.NDArray[np.float32]) -> dict[str, Any]:
        """Compute the figures from `summed` (C, K + 1): each clip's probabilities added up, and its number of windows.

        Thresholds of independent labels are chosen on these clips.
        """
        means = summed[:, :-1] / summed[:, -1:].clip(min=1)
        if self.recipe.activation == "sigmoid":
            return multi_label_scores(means, self.truth, self.labels)
        return scores(means / means.sum(axis=1, keepdims=True).clip(min=1e-12), self.truth, self.labels)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the learning curve with the checkpoint."""
        checkpoint["history"] = self.history

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Load the learning curve, so that a resumed run continues it."""
        self.history = list(checkpoint.get("history", []))

    def configure_optimizers(self) -> Any:
        """See `training.fit.optimizer`."""
        return make_optimiser(self, self._backbone, self.recipe.optimiser)

    @property
    def _sums(self) -> Tensor:
        return torch.as_tensor(self.probability_sums)

    def _encode(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """Return (features (N, T, *F), predicted auxiliary targets (N, T, A) or None)."""
        if "features" in batch:
            return batch["features"].float(), None
        frames = batch["frames"]
        if not self.aux_names:
            return self.model.features(frames), None
        if self.aux_predictor is None:
            features, aux = self.model.encoder.with_point(frames.flatten(0, 1))  # type: ignore[operator]
            return features.unflatten(0, frames.shape[:2]), aux.unflatten(0, frames.shape[:2])
        features = self.model.features(frames)
        flat = features if features.ndim == 3 else features.flatten(2, -2).mean(dim=2)
        return features, self.aux_predictor(flat)

    def _aux_loss(self, predicted: Tensor, targets: Tensor) -> Tensor:
        """Return the loss on known targets: smooth L1 of x and y, cross-entropy of `visible`."""
        known = ~torch.isnan(targets)
        targets = torch.nan_to_num(targets)
        total = predicted.new_zeros(())
        for column, name in enumerate(self.aux_names):
            value, target, mask = predicted[..., column], targets[..., column], known[..., column]
            if name == "visible":
                loss = F.binary_cross_entropy_with_logits(value, target, reduction="none")
            else:
                loss = F.smooth_l1_loss(value, target, reduction="none", beta=0.05)
            total = total + (loss * mask).sum() / mask.sum().clamp(min=1)
        return total

    def _new_aux_predictor(self) -> nn.Linear:
        m = self.recipe.model
        with torch.no_grad():
            chunk = torch.zeros(1, m.frames_per_chunk, m.height, m.width, 3, dtype=torch.uint8)
            feature = self.model.eval().encoder(chunk)
        self.model.train()
        return nn.Linear(feature.shape[-1], len(self.aux_names))

    def _not_finite(self, total: Tensor, parts: dict[str, Tensor]) -> str:
        values = ", ".join(f"{name} part {part.item()}" for name, part in parts.items())
        return (
            f"step {self.global_step}: the loss is {total.item()} ({values}); lower "
            f"optimiser.learning_rate={self.recipe.optimiser.learning_rate} or use precision: 32-true, then run the "
            "same command to resume from the last checkpoint"
        )

    def _out_of_memory(self) -> OutOfMemoryError:
        o = self.recipe.optimiser
        return OutOfMemoryError(
            f"step {self.global_step}: out of memory; lower optimiser.batch={o.batch} (and with it "
            f"optimiser.learning_rate={o.learning_rate}), or model.height and model.width; on a GPU, precision: "
            "bf16-mixed halves the memory"
        )

    def _print_progress(self, text: str) -> None:
        """Print a line of progress where no progress bar is shown."""
        if rank() == 0 and not sys.stderr.isatty():
            print(text, file=sys.stderr, flush=True)


def predicts_aux(model: nn.Module) -> bool:
    """Tell whether the encoder predicts auxiliary targets itself: `with_point(frames) -> (features, predictions)`."""
    return hasattr(model.encoder, "with_point")


def with_count(probabilities: Tensor) -> Tensor:
    """Append a column of ones to (W, K), so that a sum over windows also counts them."""
    return torch.cat([probabilities, torch.ones_like(probabilities[:, :1])], dim=1)


def predict_proba(model: nn.Module, batch: Batch, activation: Activation) -> Tensor:
    """Return (W, K) probabilities of a validation batch's windows. A chunk of several windows is encoded once."""
    if "features" in batch:
        features = batch["features"].float()
    else:
        features = torch.cat([model.encoder(part) for part in torch.split(batch["frames"], ENCODE_BATCH)])  # type: ignore[operator]
    logits: Tensor = model.head(features[batch["windows"]])  # type: ignore[operator]
    return logits.float().softmax(dim=-1) if activation == "softmax" else logits.float().sigmoid()


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether PyTorch ran out of memory, which it reports in several ways."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)
