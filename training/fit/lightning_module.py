"""One model while it learns: losses, validation, average of weights; the same for every kind of data."""

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

from training.data.batches import Batch, rank, world
from training.errors import LossError, OutOfMemoryError
from training.fit.metrics import scores
from training.fit.optimizer import backbone_norms, make_optimiser, new_average, whole_parts
from training.models import ClipModel
from training.recipe import Recipe

ENCODE_AT_ONCE = 256
"""Chunks; more of a measured batch are encoded in turns."""


class ClipModule(lightning.LightningModule):
    """A model, what it is asked for besides the label, and how well it does on the clips held back.

    `truth`: (C,) classes of these clips. `truth_names`: columns of a batch's truths; x and y are regressed,
    `visible` is a yes or no.
    """

    def __init__(
        self,
        recipe: Recipe,
        model: ClipModel,
        *,
        labels: Sequence[str],
        truth: npt.NDArray[np.int64],
        truth_names: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.recipe, self.labels, self.truth_names = recipe, tuple(labels), tuple(truth_names)
        self.model = model
        self.average = None if recipe.optimiser.average is None else new_average(model, recipe.optimiser.average)
        self.answer = self._new_answer() if self.truth_names and not answers_itself(model) else None
        self.truth = truth
        self.register_buffer("summed", torch.zeros(len(truth), len(labels)), persistent=False)
        self.figures: dict[str, Any] = {}
        self.history: list[dict[str, Any]] = []
        self._since: dict[str, Tensor] = {}
        self._steps_since = 0
        self._backbone = list(model.backbone_parameters())
        self._frozen = whole_parts(model, self._backbone)
        self._norms = backbone_norms(model, self._backbone)

    @property
    def measured_model(self) -> nn.Module:
        """The weights that are measured and kept: the average's, where the recipe asks for one."""
        return self.model if self.average is None else self.average.module

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The parts of one step's loss, whose sum is made smaller."""
        features, answers = self._features(batch)
        logits = self.model.head(features).float()
        smoothing = self.recipe.loss.label_smoothing
        parts = {"label": F.cross_entropy(logits, batch["target"], label_smoothing=smoothing)}
        if answers is not None and self.recipe.loss.truth_weight:
            parts["truth"] = self.truth_weight * self._truth_loss(answers.float(), batch["truths"])
        return parts

    @property
    def truth_weight(self) -> float:
        """Falls to a tenth in the course of training."""
        return self.recipe.loss.truth_weight * max(0.1, 1 - self.global_step / self.recipe.optimiser.steps)

    def on_train_batch_start(self, batch: Batch, index: int) -> None:
        """Freeze or thaw the backbone."""
        frozen_steps = self.recipe.optimiser.frozen_steps
        if frozen_steps:
            thawed = self.global_step >= frozen_steps
            for module in self._frozen:
                module.train(thawed)
            for norm in self._norms:
                norm.eval()
        # Several processes agreed at the start on which gradients they exchange: there, only its rate is zero.
        if world() == 1 and self._backbone:
            wanted = self.global_step >= frozen_steps
            if self._backbone[0].requires_grad != wanted:
                for parameter in self._backbone:
                    parameter.requires_grad_(wanted)

    def training_step(self, batch: Batch, index: int) -> Tensor:
        """One step's loss. Raises `LossError` when it is not finite, `OutOfMemoryError` with the key to lower."""
        try:
            parts = self.losses(batch)
        except (RuntimeError, MemoryError) as error:
            if is_out_of_memory(error):
                raise self._too_large() from error
            raise
        total = torch.stack(list(parts.values())).sum()
        finite = bool(torch.isfinite(total))
        if not self.trainer.strategy.reduce_boolean_decision(finite, all=True):
            raise LossError(self._not_finite(total, parts))
        for name, part in parts.items():
            self._since[name] = self._since.get(name, torch.zeros_like(part.detach())) + part.detach()
        self._steps_since += 1
        if self.global_step % 50 == 0:
            told = " ".join(f"{name} {part.item():.3f}" for name, part in parts.items())
            self._say(f"step {self.global_step}: {told}")
        self.log("loss", total.detach(), prog_bar=True, logger=False)
        return total

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Gradients need the most memory of all."""
        try:
            super().backward(loss, *args, **kwargs)
        except (RuntimeError, MemoryError) as error:
            if is_out_of_memory(error):
                raise self._too_large() from error
            raise

    def on_train_batch_end(self, outputs: Any, batch: Batch, index: int) -> None:
        """Let the average follow."""
        if self.average is not None:
            self.average.update_parameters(self.model)

    def on_validation_epoch_start(self) -> None:
        """Forget the last validation."""
        self._summed.zero_()

    def validation_step(self, batch: Batch, index: int) -> None:
        """Add up the probabilities of each clip's windows."""
        probabilities = answer(self.measured_model, batch)
        self._summed.index_add_(0, batch["clips"], probabilities.to(self._summed.dtype))

    def on_validation_epoch_end(self) -> None:
        """Log what the best checkpoint is chosen by, and keep the learning curve."""
        if world() > 1:
            torch.distributed.all_reduce(self._summed)
        self.figures = self.judge(self._summed.cpu().numpy())
        kept = {name: value for name, value in self.figures.items() if isinstance(value, float)}
        self.log_dict(
            {f"held_back_{name}" if name == "loss" else name: value for name, value in kept.items()},
            sync_dist=world() > 1,
            prog_bar=True,
        )
        steps = max(self._steps_since, 1)
        trained = {f"train_{name}": float(total) / steps for name, total in self._since.items()}
        self._since, self._steps_since = {}, 0
        self.history.append({"step": self.global_step, **trained, **kept})
        told = " ".join(f"{name} {kept[name]:.3f}" for name in ("top1", "balanced_accuracy", "loss"))
        self._say(f"step {self.global_step}: held back: {told}")

    def judge(self, summed: npt.NDArray[np.float32]) -> dict[str, Any]:
        """The figures, from each clip's probabilities added up over its windows."""
        return scores(summed / summed.sum(axis=1, keepdims=True).clip(min=1e-12), self.truth, self.labels)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """The learning curve so far goes with it."""
        checkpoint["history"] = self.history

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on with the curve."""
        self.history = list(checkpoint.get("history", []))

    def configure_optimizers(self) -> Any:
        """See `training.fit.optimizer`."""
        return make_optimiser(self, self._backbone, self.recipe.optimiser)

    @property
    def _summed(self) -> Tensor:
        return torch.as_tensor(self.summed)

    def _features(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """(features (N, T, *F), answers (N, T, A) or None)."""
        if "features" in batch:
            return batch["features"].float(), None
        frames = batch["frames"]
        if not self.truth_names:
            return self.model.features(frames), None
        if self.answer is None:
            features, answers = self.model.encoder.with_point(frames.flatten(0, 1))  # type: ignore[operator]
            return features.unflatten(0, frames.shape[:2]), answers.unflatten(0, frames.shape[:2])
        features = self.model.features(frames)
        flat = features if features.ndim == 3 else features.flatten(2, -2).mean(dim=2)
        return features, self.answer(flat)

    def _truth_loss(self, answers: Tensor, truths: Tensor) -> Tensor:
        """Where known: how far x and y are off, and how wrong `visible` is."""
        known = ~torch.isnan(truths)
        truths = torch.nan_to_num(truths)
        total = answers.new_zeros(())
        for column, name in enumerate(self.truth_names):
            said, true, asked = answers[..., column], truths[..., column], known[..., column]
            if name == "visible":
                gap = F.binary_cross_entropy_with_logits(said, true, reduction="none")
            else:
                gap = F.smooth_l1_loss(said, true, reduction="none", beta=0.05)
            total = total + (gap * asked).sum() / asked.sum().clamp(min=1)
        return total

    def _new_answer(self) -> nn.Linear:
        m = self.recipe.model
        with torch.no_grad():
            chunk = torch.zeros(1, m.frames_per_chunk, m.height, m.width, 3, dtype=torch.uint8)
            feature = self.model.eval().encoder(chunk)
        self.model.train()
        return nn.Linear(feature.shape[-1], len(self.truth_names))

    def _not_finite(self, total: Tensor, parts: dict[str, Tensor]) -> str:
        told = ", ".join(f"{name} part {part.item()}" for name, part in parts.items())
        return (
            f"step {self.global_step}: the loss is {total.item()} ({told}); lower "
            f"optimiser.learning_rate={self.recipe.optimiser.learning_rate} or use precision: 32-true, then run the "
            "same command to go on from the last checkpoint"
        )

    def _too_large(self) -> OutOfMemoryError:
        o = self.recipe.optimiser
        return OutOfMemoryError(
            f"step {self.global_step}: out of memory; lower optimiser.batch={o.batch} (and with it "
            f"optimiser.learning_rate={o.learning_rate}), or model.height and model.width; on a GPU precision: "
            "bf16-mixed halves it"
        )

    def _say(self, text: str) -> None:
        """A line of progress, where no bar shows it."""
        if rank() == 0 and not sys.stderr.isatty():
            print(text, file=sys.stderr, flush=True)


def answers_itself(model: nn.Module) -> bool:
    """Whether the encoder answers the truths by itself: `with_point(frames) -> (features, answers)`."""
    return hasattr(model.encoder, "with_point")


def answer(model: nn.Module, batch: Batch) -> Tensor:
    """(W, K) probabilities of a measured batch's windows; a chunk that several windows share is encoded once."""
    if "features" in batch:
        features = batch["features"].float()
    else:
        features = torch.cat([model.encoder(part) for part in torch.split(batch["frames"], ENCODE_AT_ONCE)])  # type: ignore[operator]
    logits: Tensor = model.head(features[batch["windows"]])  # type: ignore[operator]
    return logits.float().softmax(dim=-1)


def is_out_of_memory(error: BaseException) -> bool:
    """PyTorch says so in several ways."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)
