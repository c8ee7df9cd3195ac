"""Train a recipe: read its data, build its model, and write a run's folder with the best weights."""

from __future__ import annotations

import dataclasses
import logging
import os
import pickle
import sys
import warnings
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import numpy.typing as npt
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint, RichProgressBar
from safetensors.torch import save_file
from torch import nn
from torch.utils.data import DataLoader

from engines.printable import printable
from streamclf.runtime.interrupts import describe_work
from streamclf.runtime.signals import without_interrupts
from training.data.batches import (
    Batch,
    ClipTrainingBatches,
    TrainingBatches,
    ValidationBatches,
    WindowSampler,
    rank,
    world_size,
)
from training.data.dataset import ClipDataSet, DataSet, EncodedDataSet
from training.errors import RecipeError, RunError
from training.fit.bundle_limits import check_exportable, check_graph_size
from training.fit.camera_events_module import CameraEventsModule
from training.fit.feature_cache import CachedTrainingBatches, CachedValidationBatches, FeatureCache, check_frozen
from training.fit.lightning_module import ClipModule, predict_proba, with_count
from training.fit.run_folder import (
    BEST_FILE,
    HISTORY_FILE,
    LABELS_FILE,
    LAST_FILE,
    METRICS_FILE,
    NOTES_FILE,
    build_model,
    read_json,
    starting_run,
    write_json,
)
from training.models import ClipModel
from training.recipe import Recipe
from training.weights import WEIGHTS_FILE

MODULES: dict[str, type[ClipModule]] = {"camera_events": CameraEventsModule}
"""The Lightning modules of the kinds of data that need their own; the others use `ClipModule`."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """A model with the data to train it on and to validate it with. `training` is None where nothing is trained."""

    module: ClipModule
    training: TrainingBatches | None
    validation: ValidationBatches
    labels: tuple[str, ...]
    notes: list[str]


def open_session(recipe: Recipe, model: ClipModel | None = None) -> Session:
    """Read, check, decode or render the recipe's data, and build its model. Raises `TrainingError`.

    With a `model` the session only validates that model.
    """
    data = recipe.data.open(recipe.shape, seed=recipe.seed, stretch=recipe.windows.fit == "stretch")
    network = build_model(recipe, len(data.labels)) if model is None else model
    training: TrainingBatches | None = None
    validation: ValidationBatches
    if model is None and recipe.windows.views:
        training, validation = _cached_batches(recipe, data, network)
    else:
        if model is None and isinstance(data, EncodedDataSet):
            check_frozen(network)
            training = data.encoded_batches(
                network.encoder.eval(),
                windows=recipe.windows,
                augment=recipe.augment,
                seed=recipe.seed,
                batch=recipe.optimiser.batch,
            )
        elif model is None:
            training = data.training_batches(
                recipe.shape,
                windows=recipe.windows,
                augment=recipe.augment,
                seed=recipe.seed,
                batch=recipe.optimiser.batch,
            )
        validation = data.validation_batches(recipe.shape, recipe.windows)
    module_class = MODULES.get(recipe.data.kind, ClipModule)
    module = module_class(
        recipe,
        network,
        labels=data.labels,
        truth=validation.labels,
        aux_names=data.aux_names,
        positives=label_shares(training, len(data.labels)) if isinstance(training, ClipTrainingBatches) else None,
    )
    return Session(module=module, training=training, validation=validation, labels=data.labels, notes=data.notes)


def _cached_batches(recipe: Recipe, data: DataSet, model: ClipModel) -> tuple[TrainingBatches, ValidationBatches]:
    """Encode all clips with the frozen encoder, and make batches of their features."""
    assert isinstance(data, ClipDataSet)  # the recipe allows windows.views for clips only
    check_frozen(model)
    cache = FeatureCache(model, recipe, recipe.data.cache_folder / "features")
    training = CachedTrainingBatches(
        cache,
        WindowSampler(data.training, data.labels, recipe.shape, recipe.windows, recipe.augment),
        views=recipe.windows.views,
        odds=data.odds,
        classes=len(data.labels),
        seed=recipe.seed,
        batch=recipe.optimiser.batch,
        balanced=recipe.windows.balanced,
        mixup=recipe.augment.mixup,
    )
    return training, CachedValidationBatches(cache, data, recipe)


def train(recipe: Recipe, run: Path) -> dict[str, float]:
    """Train into the folder `run`, and return the figures of the kept weights on the validation clips.

    The folder gets the recipe, its classes, `model.safetensors`, `metrics.json` and the learning curve. A second call
    with the same recipe resumes the run; a call with another recipe is refused. Raises `TrainingError`.
    """
    torch.set_num_threads(recipe.threads)
    lightning.seed_everything(recipe.seed, verbose=False)
    with starting_run(recipe, run):
        check_exportable(recipe, recipe.data.label_names())
        return _train(recipe, run)


def _train(recipe: Recipe, run: Path) -> dict[str, float]:
    session = open_session(recipe)
    assert session.training is not None
    for part in ("encoder", "head"):
        check_graph_size(getattr(session.module.model, part), part)
    last = run / LAST_FILE
    if last.is_file():
        session.training.step = _resumed_step(last, session.labels)
    if rank() == 0:
        for note in session.notes:
            print(f"note: {printable(note)}", file=sys.stderr, flush=True)
        write_json(run / LABELS_FILE, list(session.labels))
        write_json(run / NOTES_FILE, session.notes)
    monitored = "validation_loss" if recipe.monitor == "loss" else recipe.monitor
    best = ModelCheckpoint(
        dirpath=run,
        filename=BEST_FILE.removesuffix(".ckpt"),
        monitor=monitored,
        mode="min" if recipe.monitor == "loss" else "max",
        enable_version_counter=False,
    )
    # A second callback, because Lightning's `save_last` saves only with the best one: a killed run would resume there.
    newest = ModelCheckpoint(dirpath=run, filename=LAST_FILE.removesuffix(".ckpt"), enable_version_counter=False)
    trainer = _trainer(recipe, best, newest)
    describe_work(
        lambda: (
            f"step {trainer.global_step} of {recipe.optimiser.steps}; the same command continues from the newest "
            "checkpoint"
        )
    )
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    with warnings.catch_warnings():
        # Lightning warns of few loader processes on any machine, and of the folder that a killed run leaves.
        warnings.filterwarnings("ignore", module=r"lightning\..*")
        trainer.fit(
            session.module,
            _loader(session.training, recipe.num_workers),
            DataLoader(session.validation, batch_size=None),
            ckpt_path=last if last.is_file() else None,
            weights_only=True,
        )
    kept = Path(best.best_model_path) if recipe.keep == "best" else last
    state = torch.load(kept, weights_only=True, map_location="cpu")
    prefix = "model." if session.module.ema is None else "ema.module."
    weights = {
        name.removeprefix(prefix): value.contiguous()
        for name, value in state["state_dict"].items()
        if name.startswith(prefix)
    }
    model = session.module.model.cpu()
    model.load_state_dict(weights)
    metrics = validate(session, model.eval())
    if rank() == 0:
        partial = run / f".{WEIGHTS_FILE}.partial"
        save_file(weights, partial)
        partial.replace(run / WEIGHTS_FILE)
        write_json(run / HISTORY_FILE, session.module.history)
        write_json(run / METRICS_FILE, {**metrics, "step": int(state["global_step"])})
    return {name: value for name, value in metrics.items() if isinstance(value, float)}


def validate(session: Session, model: nn.Module) -> dict[str, Any]:
    """Compute the figures of `model` on all validation clips, in this process alone."""
    session.validation.whole = True
    return session.module.compute_metrics(_sum_probabilities(model, session, len(session.labels)))


def label_shares(batches: ClipTrainingBatches, classes: int) -> npt.NDArray[np.float64]:
    """Return (K,) the share of training windows that have each label, as they are drawn."""
    labels = batches.sampler.clips.labels
    if labels.ndim == 1:
        return np.asarray(np.bincount(labels, weights=batches.odds, minlength=classes), np.float64)
    return np.asarray(batches.odds @ labels, np.float64)


def _sum_probabilities(model: nn.Module, session: Session, classes: int) -> npt.NDArray[np.float32]:
    """Return (C, K + 1): the probabilities of every validation clip added up over its windows, and their number."""
    batches, activation = session.validation, session.module.recipe.activation
    summed = torch.zeros(len(batches.labels), classes + 1)
    with torch.inference_mode():
        for batch in batches:
            summed.index_add_(0, batch["clips"], with_count(predict_proba(model, batch, activation)))
    return summed.numpy()


def _resumed_step(last: Path, labels: tuple[str, ...]) -> int:
    """Return the step of a run's newest checkpoint. Raises `RunError` where it is damaged or has other classes."""
    trained = read_json(last.parent / LABELS_FILE) if (last.parent / LABELS_FILE).is_file() else list(labels)
    if trained != list(labels):
        raise RunError(
            f"{last.parent}: was trained on the classes {trained}, the data have {list(labels)} now; give another "
            "--run folder, or restore the data"
        )
    try:
        return int(torch.load(last, weights_only=True, map_location="cpu")["global_step"])
    except (RuntimeError, OSError, EOFError, KeyError, ValueError, TypeError, pickle.UnpicklingError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise RunError(f"{last}: damaged checkpoint ({reason}); delete it to begin again") from error


def _trainer(recipe: Recipe, best: ModelCheckpoint, newest: ModelCheckpoint) -> lightning.Trainer:
    o = recipe.optimiser
    callbacks: list[Callback] = [best, newest]  # in this order, so that the newest checkpoint records the best one
    if recipe.patience is not None:
        assert best.monitor is not None
        callbacks.append(EarlyStopping(best.monitor, mode=best.mode, patience=recipe.patience))
    if sys.stderr.isatty():
        callbacks.append(RichProgressBar(console_kwargs={"stderr": True}))
    elastic = "TORCHELASTIC_RUN_ID" in os.environ
    local_processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if elastic else recipe.processes
    all_processes = int(os.environ.get("WORLD_SIZE", "1")) if elastic else recipe.processes
    if o.batch % all_processes:
        raise RecipeError(
            f"optimiser.batch={o.batch}: must be a multiple of the {all_processes} processes that torchrun starts"
        )
    gpus = torch.cuda.device_count()
    if recipe.accelerator == "gpu" and gpus < local_processes:
        raise RecipeError(
            f"accelerator: gpu with {local_processes} processes here: this machine has {gpus} GPUs; lower processes or "
            "give accelerator: cpu"
        )
    on_gpu = recipe.accelerator != "cpu" and gpus >= local_processes
    strategy = "auto"
    if all_processes > 1:
        # Some parameters get no gradient: the encoder's with cached features, the auxiliary predictor's without weight.
        is_partial = recipe.windows.views > 0 or recipe.loss.aux_weight == 0
        strategy = "ddp_find_unused_parameters_true" if is_partial else "ddp"
    return lightning.Trainer(
        accelerator="gpu" if on_gpu else "cpu",
        devices=local_processes,
        num_nodes=all_processes // local_processes,
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


class _Loader(DataLoader[Batch]):
    """Start the loader's processes so that Ctrl-C does not interrupt their imports; the main process ends them."""

    dataset: TrainingBatches

    def __iter__(self) -> Any:
        self.dataset.process = rank(), world_size()  # the training processes are connected only now
        with without_interrupts():
            return super().__iter__()


def _loader(batches: TrainingBatches, num_workers: int) -> DataLoader[Batch]:
    return _Loader(
        batches,
        batch_size=None,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        multiprocessing_context="spawn" if num_workers else None,
        pin_memory=torch.cuda.is_available(),
    )
