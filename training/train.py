"""Training: a recipe in, a run's folder with the best weights out. Killed, it goes on where it stopped."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
import torch.nn.functional as F
import yaml
from lightning.pytorch.callbacks import ModelCheckpoint
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from training.camera_events import LABELS
from training.camera_events.dataset import BETWEEN, THUMBNAIL, TRUTHS, Footage, FootageSpec, cut, open_footage
from training.errors import LossError, RunError
from training.models.vivit_factorised import FactorisedViViT
from training.recipe import Recipe, parse_recipe

RECIPE_FILE, WEIGHTS_FILE, METRICS_FILE, LAST_FILE = (
    "recipe.yaml",
    "model.safetensors",
    "metrics.json",
    "last.ckpt",
)

Batch = tuple[Tensor, Tensor, Tensor]


def build_model(recipe: Recipe) -> FactorisedViViT:
    """The recipe's network with fresh weights, or those of `start_from`."""
    model = FactorisedViViT(labels=len(LABELS), **recipe.model.model_dump(exclude={"kind"}))
    if recipe.start_from is not None:
        load_weights(model, recipe.start_from)
    return model


def load_weights(model: nn.Module, path: Path) -> None:
    """Read safetensors into `model`. Raises `RunError` where they are missing or another network's."""
    try:
        model.load_state_dict(load_file(path))
    except (OSError, RuntimeError) as error:
        raise RunError(f"{path}: not this model's weights ({str(error).splitlines()[0]})") from error


def load_run(run: Path) -> tuple[Recipe, FactorisedViViT]:
    """A finished run's recipe and best weights, ready to evaluate."""
    try:
        tree = yaml.safe_load((run / RECIPE_FILE).read_text(encoding="utf-8"))
    except OSError as error:
        raise RunError(
            f"{run}: not a run ({RECIPE_FILE} {error.strerror}); give the folder that train wrote"
        ) from error
    recipe = parse_recipe(tree, where=str(run / RECIPE_FILE))
    model = build_model(recipe.model_copy(update={"start_from": None}))
    load_weights(model, run / WEIGHTS_FILE)
    return recipe, model.eval()


def footage_of(recipe: Recipe, *, validation: bool) -> Footage:
    """The recipe's made footage, rendered if need be."""
    spec = FootageSpec(
        clips=recipe.data.validation_clips if validation else recipe.data.clips,
        frames=recipe.data.frames,
        fps=recipe.fps,
        height=recipe.model.height,
        width=recipe.model.width,
        window=recipe.model.tokens * recipe.model.frames_per_token,
        normal_share=recipe.data.normal_share,
        seed=recipe.seed + (1_000_000 if validation else 0),
    )
    return open_footage(spec, recipe.data.cache, workers=recipe.data.workers)


class TrainingWindows(IterableDataset[Batch]):
    """Endless batches; which windows a step sees depends on seed and step alone, so resuming repeats nothing."""

    def __init__(self, footage: Footage, recipe: Recipe) -> None:
        self.footage, self.recipe, self.step = footage, recipe, 0
        normal, disturbed = np.argwhere(footage.labels == 0), np.argwhere(footage.labels > 0)
        if not len(normal) or not len(disturbed):
            raise RunError(
                f"data.clips={recipe.data.clips}: {len(normal)} normal, {len(disturbed)} disturbed windows; make more"
            )
        self.windows = np.concatenate([normal, disturbed])  # (windows, 2): clip, offset's index
        share = recipe.data.normal_windows
        self.odds = np.repeat([share / len(normal), (1 - share) / len(disturbed)], [len(normal), len(disturbed)])

    def __iter__(self) -> Iterator[Batch]:
        recipe, footage = self.recipe, self.footage
        while True:
            rng = np.random.default_rng([recipe.seed, 7, self.step, _rank()])
            self.step += 1
            chosen = self.windows[rng.choice(len(self.odds), recipe.optimiser.batch // recipe.processes, p=self.odds)]
            cuts = [
                cut(rng, footage, clip, footage.spec.offsets[i], recipe.model.frames_per_token) for clip, i in chosen
            ]
            labels = footage.labels[chosen[:, 0], chosen[:, 1]].astype(np.int64)
            frames, truths = (np.stack(part) for part in zip(*cuts, strict=True))
            yield torch.from_numpy(frames), torch.from_numpy(truths), torch.from_numpy(labels)


def _rank() -> int:
    return torch.distributed.get_rank() if torch.distributed.is_initialized() else 0


class ValidationWindows(IterableDataset[Batch]):
    """Every decided window of the validation clips once, as it is."""

    def __init__(self, footage: Footage, recipe: Recipe) -> None:
        self.footage, self.recipe = footage, recipe

    def __iter__(self) -> Iterator[Batch]:
        spec, t = self.footage.spec, self.recipe.model.frames_per_token
        windows = np.argwhere(self.footage.labels >= 0)
        for part in np.array_split(windows, max(len(windows) // 32, 1)):
            frames = np.stack(
                [self.footage.frames[clip, spec.offsets[i] : spec.offsets[i] + spec.window] for clip, i in part]
            )
            labels = self.footage.labels[part[:, 0], part[:, 1]].astype(np.int64)
            tokens = frames.reshape(len(part), -1, t, *frames.shape[2:])
            yield torch.from_numpy(tokens), torch.empty(0), torch.from_numpy(labels)


class Trainee(lightning.LightningModule):
    """The model and the truths that its encoder is asked for while it learns."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.recipe = recipe
        self.model = build_model(recipe)
        self.truths = nn.Linear(recipe.model.dim, len(TRUTHS) + THUMBNAIL[0] * THUMBNAIL[1])
        self.between = nn.Linear(recipe.model.dim, len(BETWEEN)) if recipe.model.changes else None
        self.register_buffer("confusion", torch.zeros(len(LABELS), len(LABELS)), persistent=False)

    def training_step(self, batch: Batch, index: int) -> Tensor:
        """One step's loss. Raises `LossError` when it is not finite."""
        frames, truths, labels = batch
        loss, done = self.recipe.loss, self.global_step / self.recipe.optimiser.steps
        keep = None
        if loss.patch_keep < 1 and done < loss.all_patches_from:
            patches = self.model.encoder.patches
            keep = torch.randperm(patches)[: max(round(patches * loss.patch_keep), 1)].sort().values
        features = self.model.features(frames, keep)
        named = F.cross_entropy(self.model.head(features).float(), labels, label_smoothing=loss.label_smoothing)
        said = self.truths(features).float()
        shown = truths[..., : said.shape[-1]]
        known = _gap(said[..., : len(TRUTHS)], shown[..., : len(TRUTHS)])
        known = known + _gap(said[..., len(TRUTHS) :], shown[..., len(TRUTHS) :])
        if self.between is not None and self.model.head.changes is not None:
            known = known + _gap(self.between(self.model.head.changes(features)).float(), truths[..., said.shape[-1] :])
        weight = loss.truth_weight * max(0.1, 1 - done)
        total = named + weight * known
        if not torch.isfinite(total):
            raise LossError(
                f"step {self.global_step}: the loss is {total.item()} (label part {named.item()}, truth part "
                f"{known.item()}); lower optimiser.learning_rate={self.recipe.optimiser.learning_rate} or use "
                f"precision: 32-true, then run the same command to go on from the last checkpoint"
            )
        if self.global_step % 50 == 0 and _rank() == 0:
            print(f"step {self.global_step}: label {named.item():.3f} truth {known.item():.3f}", flush=True)
        return total

    def on_validation_epoch_start(self) -> None:
        """Forget the last validation."""
        self.confusion.zero_()  # type: ignore[operator]

    def validation_step(self, batch: Batch, index: int) -> None:
        """Count a batch into the confusion matrix (rows: truth)."""
        frames, _, labels = batch
        predicted = self.model(frames).argmax(dim=-1)
        ones = torch.ones(len(labels), device=labels.device)
        self.confusion.index_put_((labels, predicted), ones, accumulate=True)  # type: ignore[operator]

    def on_validation_epoch_end(self) -> None:
        """Log balanced accuracy, what the best checkpoint is chosen by, and false alarms."""
        matrix = torch.as_tensor(self.confusion)
        recall = matrix.diagonal() / matrix.sum(dim=1).clamp(min=1)
        seen = matrix.sum(dim=1) > 0
        self.log_dict({"balanced_accuracy": recall[seen].mean(), "false_alarms": 1 - recall[0]}, rank_zero_only=False)
        if _rank() == 0:
            print(f"step {self.global_step}: recall {[round(r, 3) for r in recall.tolist()]}", flush=True)

    def configure_optimizers(self) -> Any:
        """AdamW; biases, norms and positions are not decayed."""
        o = self.recipe.optimiser
        decayed = [p for name, p in self.named_parameters() if p.ndim > 1 and "position" not in name]
        others = [p for name, p in self.named_parameters() if not (p.ndim > 1 and "position" not in name)]
        groups = [
            {"params": decayed, "weight_decay": o.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ]
        optimiser = torch.optim.AdamW(groups, lr=o.learning_rate, betas=(0.9, 0.98))

        def pace(step: int) -> float:
            if step < o.warmup_steps:
                return (step + 1) / o.warmup_steps
            return 0.5 * (1 + math.cos(math.pi * (step - o.warmup_steps) / max(o.steps - o.warmup_steps, 1)))

        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, pace)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def _gap(said: Tensor, truths: Tensor) -> Tensor:
    """How far `said` is from `truths`, where these are not NaN: the mean of a smooth L1."""
    asked = ~torch.isnan(truths)
    gap = F.smooth_l1_loss(said, torch.nan_to_num(truths), reduction="none", beta=0.5)
    return (gap * asked).sum() / asked.sum().clamp(min=1)


def train(recipe: Recipe, run: Path) -> dict[str, float]:
    """Train into folder `run` and return the best checkpoint's metrics on made footage held back.

    The folder gets the recipe, `model.safetensors` (best balanced accuracy) and `metrics.json`. Started again
    with the same recipe it resumes; with another it refuses.
    """
    torch.set_num_threads(recipe.threads)
    lightning.seed_everything(recipe.seed, verbose=False)
    run.mkdir(parents=True, exist_ok=True)
    text = yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False)
    known = run / RECIPE_FILE
    if known.is_file() and known.read_text(encoding="utf-8") != text:
        raise RunError(f"{run}: holds a run of another recipe; give another --run folder or delete this one")
    known.write_text(text, encoding="utf-8")
    windows = TrainingWindows(footage_of(recipe, validation=False), recipe)
    held_back = ValidationWindows(footage_of(recipe, validation=True), recipe)
    trainee = Trainee(recipe)
    keeper = ModelCheckpoint(
        dirpath=run,
        filename="best",
        monitor="balanced_accuracy",
        mode="max",
        save_last=True,
        enable_version_counter=False,
    )
    last = run / LAST_FILE
    if last.is_file():
        windows.step = int(torch.load(last, weights_only=True, map_location="cpu")["global_step"])
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=recipe.processes,
        strategy="ddp" if recipe.processes > 1 else "auto",
        precision=recipe.precision,
        max_steps=recipe.optimiser.steps,
        val_check_interval=min(recipe.validate_every, recipe.optimiser.steps),
        check_val_every_n_epoch=None,
        gradient_clip_val=recipe.optimiser.clip_norm,
        callbacks=[keeper],
        logger=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
    )
    trainer.fit(
        trainee,
        DataLoader(windows, batch_size=None),
        DataLoader(held_back, batch_size=None),
        ckpt_path=last if last.is_file() else None,
        weights_only=True,
    )
    best = Path(keeper.best_model_path)
    state = torch.load(best, weights_only=True, map_location="cpu")["state_dict"]
    weights = {
        name.removeprefix("model."): value.contiguous() for name, value in state.items() if name.startswith("model.")
    }
    save_file(weights, run / WEIGHTS_FILE)
    trainee.model.load_state_dict(weights)
    metrics = measure(trainee.model.eval(), held_back)
    (run / METRICS_FILE).write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
    return {name: value for name, value in metrics.items() if isinstance(value, float)}


def measure(model: nn.Module, windows: ValidationWindows) -> dict[str, Any]:
    """Balanced accuracy, false alarms and the confusion matrix (rows: truth, in the order of LABELS)."""
    matrix = np.zeros((len(LABELS), len(LABELS)), np.int64)
    with torch.inference_mode():
        for frames, _, labels in windows:
            np.add.at(matrix, (labels.numpy(), model(frames).argmax(dim=-1).numpy()), 1)
    seen = matrix.sum(axis=1) > 0
    recall = matrix.diagonal()[seen] / matrix.sum(axis=1)[seen]
    return {
        "balanced_accuracy": float(recall.mean()),
        "false_alarms": float(1 - recall[0]) if seen[0] else 0.0,
        "confusion": matrix.tolist(),
    }
