"""Training: a recipe in, a run's folder with the best weights out. Killed, it goes on where it stopped."""

from __future__ import annotations

import dataclasses
import logging
import os
import sys
import warnings
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import numpy.typing as npt
import torch
import yaml
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint, RichProgressBar
from safetensors.torch import save_file
from torch import nn
from torch.utils.data import DataLoader

from training.builtin.camera_events import LABELS as CAMERA_EVENTS
from training.builtin.camera_events.learner import CameraEventsModule, HeldBackWindows, TrainingWindows, footage_of
from training.data.batches import Batch, Cutter, HeldBackBatches, TrainingBatches, rank
from training.data.datasets import open_data, tell
from training.data.recipes import CameraEventsData, MixedData
from training.errors import RecipeError, RunError
from training.fit.feature_cache import CachedHeldBack, CachedTraining, FeatureStore, check_frozen
from training.fit.lightning_module import ClipModule, answer
from training.fit.run_folder import (
    HISTORY_FILE,
    LABELS_FILE,
    LAST_FILE,
    METRICS_FILE,
    NOTES_FILE,
    RECIPE_FILE,
    build_model,
    load_run,
    load_weights,
    read_recipe,
    write_json,
)
from training.models import ClipModel
from training.models.compact_vivit import FactorisedViViT
from training.recipe import Recipe
from training.weights import WEIGHTS_FILE

__all__ = ["ClipModule", "Work", "build_model", "load_run", "load_weights", "measure", "open_work", "train"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What is done in a run: the model in its trainee, batches to learn from, batches to be measured on."""

    trainee: ClipModule
    training: Any
    held_back: Any
    labels: tuple[str, ...]
    notes: list[str]


def open_work(recipe: Recipe, model: ClipModel | None = None) -> Work:
    """Read, check, decode or render the recipe's data, and build its model. Raises `TrainingError`.

    With a `model` nothing is to be learned: the work is only to measure it.
    """
    if isinstance(recipe.data, CameraEventsData):
        return _camera_events_work(recipe, model)
    data = open_data(recipe.data, recipe.shape, seed=recipe.seed, stretch=recipe.windows.fit == "stretch")
    subject = build_model(recipe, len(data.labels)) if model is None else model
    held_back: HeldBackBatches | CachedHeldBack = HeldBackBatches(data.held_back, recipe.shape, recipe.windows)
    training: TrainingBatches | None = None
    if model is None:
        cutter = Cutter(data, recipe.shape, recipe.windows, recipe.augment)
        options: dict[str, Any] = {
            "seed": recipe.seed,
            "batch": recipe.optimiser.batch,
            "balanced": recipe.windows.balanced,
            "mixup": recipe.augment.mixup,
        }
        if recipe.windows.views:
            check_frozen(subject)
            store = FeatureStore(subject, recipe, cache_of(recipe.data) / "features")
            training = CachedTraining(store, data, cutter, views=recipe.windows.views, **options)
            held_back = CachedHeldBack(store, data, recipe)
        else:
            training = TrainingBatches(data, cutter, **options)
    trainee = ClipModule(
        recipe, subject, labels=data.labels, truth=data.held_back.labels, truth_names=data.training.truth_names
    )
    return Work(trainee=trainee, training=training, held_back=held_back, labels=data.labels, notes=data.notes)


def cache_of(data: Any) -> Path:
    """The folder for what a recipe's data is decoded into."""
    found: Path = cache_of(data.parts[0].data) if isinstance(data, MixedData) else data.cache
    return found


def _camera_events_work(recipe: Recipe, model: ClipModel | None) -> Work:
    training = TrainingWindows(footage_of(recipe, validation=False), recipe) if model is None else None
    held_back = HeldBackWindows(footage_of(recipe, validation=True), recipe)
    subject = build_model(recipe) if model is None else model
    assert isinstance(subject, FactorisedViViT)  # the recipe allows no other
    trainee = CameraEventsModule(recipe, subject, truth=held_back.labels)
    return Work(trainee=trainee, training=training, held_back=held_back, labels=CAMERA_EVENTS, notes=[])


def train(recipe: Recipe, run: Path) -> dict[str, float]:
    """Train into folder `run` and return the figures of the weights kept, on the clips held back.

    The folder gets the recipe, its classes, `model.safetensors`, `metrics.json` and the learning curve. Started
    again with the same recipe it resumes; with another it refuses. Raises `TrainingError`.
    """
    torch.set_num_threads(recipe.threads)
    lightning.seed_everything(recipe.seed, verbose=False)
    _claim(recipe, run)
    work = open_work(recipe)
    if rank() == 0:
        tell(work.notes)
        write_json(run / LABELS_FILE, list(work.labels))
        write_json(run / NOTES_FILE, work.notes)
    last = run / LAST_FILE
    if last.is_file():
        work.training.step = int(torch.load(last, weights_only=True, map_location="cpu")["global_step"])
    monitored = "held_back_loss" if recipe.monitor == "loss" else recipe.monitor
    keeper = ModelCheckpoint(
        dirpath=run,
        filename="best",
        monitor=monitored,
        mode="min" if recipe.monitor == "loss" else "max",
        enable_version_counter=False,
    )
    # Its own: Lightning's `save_last` follows the best one, and a killed run would go back to that.
    newest = ModelCheckpoint(dirpath=run, filename=LAST_FILE.removesuffix(".ckpt"), enable_version_counter=False)
    trainer = _trainer(recipe, keeper, newest)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    with warnings.catch_warnings():
        # It finds loaders few on any machine, and folders that a killed run left behind remarkable.
        warnings.filterwarnings("ignore", module=r"lightning\..*")
        trainer.fit(
            work.trainee,
            _loader(work.training, recipe.loaders),
            DataLoader(work.held_back, batch_size=None),
            ckpt_path=last if last.is_file() else None,
            weights_only=True,
        )
    kept = Path(keeper.best_model_path) if recipe.keep == "best" else last
    state = torch.load(kept, weights_only=True, map_location="cpu")
    prefix = "model." if work.trainee.average is None else "average.module."
    weights = {
        name.removeprefix(prefix): value.contiguous()
        for name, value in state["state_dict"].items()
        if name.startswith(prefix)
    }
    model = work.trainee.model.cpu()
    model.load_state_dict(weights)
    metrics = work.trainee.judge(measure(model.eval(), work.held_back, len(work.labels)))
    if rank() == 0:
        save_file(weights, run / WEIGHTS_FILE)
        write_json(run / HISTORY_FILE, work.trainee.history)
        write_json(run / METRICS_FILE, {**metrics, "step": int(state["global_step"])})
    return {name: value for name, value in metrics.items() if isinstance(value, float)}


def measure(model: nn.Module, held_back: Any, classes: int) -> npt.NDArray[np.float32]:
    """(C, K): every held-back clip's probabilities, added up over its windows."""
    held_back.whole = True
    summed = torch.zeros(len(held_back.labels), classes)
    with torch.inference_mode():
        for batch in held_back:
            summed.index_add_(0, batch["clips"], answer(model, batch))
    return summed.numpy()


def _claim(recipe: Recipe, run: Path) -> None:
    """Write the recipe into `run`. Raises `RunError` where another one is there."""
    run.mkdir(parents=True, exist_ok=True)
    known = run / RECIPE_FILE
    if known.is_file():
        if read_recipe(run) != recipe:
            raise RunError(f"{run}: holds a run of another recipe; give another --run folder or delete this one")
    elif rank() == 0:
        known.write_text(yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False), encoding="utf-8")


def _trainer(recipe: Recipe, keeper: ModelCheckpoint, newest: ModelCheckpoint) -> lightning.Trainer:
    o = recipe.optimiser
    callbacks: list[Callback] = [keeper, newest]  # in this order: the newest one knows which was best
    if recipe.patience is not None:
        assert keeper.monitor is not None
        callbacks.append(EarlyStopping(keeper.monitor, mode=keeper.mode, patience=recipe.patience))
    if sys.stderr.isatty():
        callbacks.append(RichProgressBar(console_kwargs={"stderr": True}))
    elastic = "TORCHELASTIC_RUN_ID" in os.environ
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if elastic else recipe.processes
    everywhere = int(os.environ.get("WORLD_SIZE", "1")) if elastic else recipe.processes
    if o.batch % everywhere:
        raise RecipeError(
            f"optimiser.batch={o.batch}: must be a multiple of the {everywhere} processes that torchrun starts"
        )
    gpus = torch.cuda.device_count()
    if recipe.accelerator == "gpu" and gpus < here:
        raise RecipeError(
            f"accelerator: gpu with {here} processes here: this machine has {gpus} GPUs; lower processes or take cpu"
        )
    on_gpu = recipe.accelerator != "cpu" and gpus >= here
    strategy = "auto"
    if everywhere > 1:
        # With features from disk the encoder is not asked, nor are its answers when nobody weighs them.
        is_partial = recipe.windows.views > 0 or recipe.loss.truth_weight == 0
        strategy = "ddp_find_unused_parameters_true" if is_partial else "ddp"
    return lightning.Trainer(
        accelerator="gpu" if on_gpu else "cpu",
        devices=here,
        num_nodes=everywhere // here,
        strategy=strategy,
        precision=recipe.precision,
        max_steps=o.steps,
        val_check_interval=min(recipe.validate_every, o.steps),
        check_val_every_n_epoch=None,
        gradient_clip_val=o.clip_norm,
        callbacks=callbacks,
        logger=False,
        enable_model_summary=False,
        enable_progress_bar=sys.stderr.isatty(),
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
    )


def _loader(batches: Any, loaders: int) -> DataLoader[Batch]:
    return DataLoader(
        batches,
        batch_size=None,
        num_workers=loaders,
        persistent_workers=loaders > 0,
        multiprocessing_context="spawn" if loaders else None,
        pin_memory=torch.cuda.is_available(),
    )
