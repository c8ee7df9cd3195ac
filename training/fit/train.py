"""Train a recipe: read its data, build its model, and write a run's folder with the best weights."""

from __future__ import annotations

import logging
import multiprocessing
import pickle
import sys
import warnings
from collections.abc import Sequence
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint, RichProgressBar
from safetensors.torch import save_file
from torch.utils.data import DataLoader

from engines.printable import printable
from streamclf.runtime.interrupts import describe_work
from training.data.batches import Batch, TrainingBatches, rank, world_size
from training.data.pool import prepare_process, starting_processes
from training.errors import RecipeError, RunError, TrainingError
from training.fit.bundle_limits import check_exportable, check_graph_size
from training.fit.precision import cpu_has_bfloat16
from training.fit.processes import CONTINUES, end_of, keep_freed_memory, process_counts, training_processes
from training.fit.run_folder import (
    BEST_FILE,
    HISTORY_FILE,
    LABELS_FILE,
    LAST_FILE,
    METRICS_FILE,
    NOTES_FILE,
    read_json,
    starting_run,
    write_json,
)
from training.fit.session import Session, open_session, validate
from training.recipe import Recipe
from training.weights import WEIGHTS_FILE

_END_S = 1.0
"""How long a process of the loader may need to end after it has caused an error here."""


def train(recipe: Recipe, run: Path) -> dict[str, float]:
    """Train into the folder `run`, and return the figures of the kept weights on the validation clips.

    The folder gets the recipe, its classes, `model.safetensors`, `metrics.json` and the learning curve. A second call
    with the same recipe resumes the run; a call with another recipe is refused. Raises `TrainingError`.
    """
    torch.set_num_threads(recipe.threads)
    keep_freed_memory()
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
    with training_processes(train, recipe, run):
        best = _fit(session, recipe, run)
    return _write_result(session, run, best if recipe.keep == "best" else last)


def _fit(session: Session, recipe: Recipe, run: Path) -> Path:
    """Train, and return the checkpoint with the best figures. Raises `RunError` where a process of a loader ends."""
    assert session.training is not None
    last = run / LAST_FILE
    best = ModelCheckpoint(
        dirpath=run,
        filename=BEST_FILE.removesuffix(".ckpt"),
        monitor="validation_loss" if recipe.monitor == "loss" else recipe.monitor,
        mode="min" if recipe.monitor == "loss" else "max",
        enable_version_counter=False,
    )
    # A second callback, because Lightning's `save_last` saves only with the best one: a killed run would resume there.
    newest = ModelCheckpoint(dirpath=run, filename=LAST_FILE.removesuffix(".ckpt"), enable_version_counter=False)
    trainer = _trainer(recipe, best, newest)
    describe_work(lambda: f"step {trainer.global_step} of {recipe.optimiser.steps}; {CONTINUES}")
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    with warnings.catch_warnings():
        # Lightning warns of few loader processes on any machine, and of the folder that a killed run leaves.
        warnings.filterwarnings("ignore", module=r"lightning\..*")
        loader = _loader(session.training, recipe.num_workers)
        try:
            trainer.fit(
                session.module,
                loader,
                DataLoader(session.validation, batch_size=None),
                ckpt_path=last if last.is_file() else None,
                weights_only=True,
            )
        except TrainingError:
            raise
        except Exception as error:
            if (reason := loader.why_ended()) is None:
                raise
            raise RunError(f"{reason}; {CONTINUES}") from error
    return Path(best.best_model_path)


def _write_result(session: Session, run: Path, checkpoint: Path) -> dict[str, float]:
    """Write the weights of `checkpoint` and their figures on the validation clips, and return the figures."""
    if rank() > 0:
        return {}
    state = torch.load(checkpoint, weights_only=True, map_location="cpu")
    prefix = "model." if session.module.ema is None else "ema.module."
    weights = {
        name.removeprefix(prefix): value.contiguous()
        for name, value in state["state_dict"].items()
        if name.startswith(prefix)
    }
    model = session.module.model.cpu()
    model.load_state_dict(weights)
    metrics = validate(session, model.eval())
    partial = run / f".{WEIGHTS_FILE}.partial"
    save_file(weights, partial)
    partial.replace(run / WEIGHTS_FILE)
    write_json(run / HISTORY_FILE, session.module.history)
    write_json(run / METRICS_FILE, {**metrics, "step": int(state["global_step"])})
    return {name: value for name, value in metrics.items() if isinstance(value, float)}


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
    local_processes, all_processes = process_counts()
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
    precision = recipe.precision
    if precision == "bf16-mixed" and not on_gpu and not cpu_has_bfloat16():
        precision = "32-true"
        if rank() == 0:
            print(
                "note: precision: bf16-mixed: this CPU has no instructions for bfloat16; the run uses "
                "32-true, which is faster here",
                file=sys.stderr,
                flush=True,
            )
    strategy = "auto"
    if all_processes > 1:
        # Some parameters get no gradient: the encoder's with cached features, the auxiliary predictor's without weight.
        is_partial = recipe.windows.views > 0 or recipe.loss.aux_weight == 0
        strategy = "ddp_find_unused_parameters_true" if is_partial else "ddp"
    trainer = lightning.Trainer(
        accelerator="gpu" if on_gpu else "cpu",
        devices=local_processes,
        num_nodes=all_processes // local_processes,
        strategy=strategy,
        precision=precision,
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
    # Lightning's handler of SIGTERM waits for the other processes, which wait for this one: 30 minutes. Its end of the
    # training would also replace the handlers of a command that a signal is ending.
    trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]
    return trainer


class _Loader(DataLoader[Batch]):
    """Start the loader's processes so that Ctrl-C does not interrupt their imports; the main process ends them."""

    dataset: TrainingBatches
    workers: Sequence[BaseProcess] = ()

    def __iter__(self) -> Any:
        self.dataset.process = rank(), world_size()  # the training processes are connected only now
        others = set(multiprocessing.active_children())
        with starting_processes():
            iterator = super().__iter__()
        self.workers = [process for process in multiprocessing.active_children() if process not in others]
        return iterator

    def why_ended(self) -> str | None:
        """Return how a process of the loader has ended; None if none has failed. PyTorch reports this in many ways."""
        connection.wait([worker.sentinel for worker in self.workers], _END_S if self.workers else 0)
        return next((f"a process of num_workers {end_of(worker)}" for worker in self.workers if worker.exitcode), None)


def _loader(batches: TrainingBatches, num_workers: int) -> _Loader:
    return _Loader(
        batches,
        batch_size=None,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        multiprocessing_context="spawn" if num_workers else None,
        worker_init_fn=prepare_process,
        pin_memory=torch.cuda.is_available(),
    )
