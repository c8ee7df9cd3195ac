"""Open a recipe's data with its model, to train or to validate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from training.data.batches import ClipTrainingBatches, TrainingBatches, ValidationBatches, WindowSampler
from training.data.dataset import ClipDataSet, DataSet, EncodedDataSet
from training.fit.camera_events_module import CameraEventsModule
from training.fit.feature_cache import CachedTrainingBatches, CachedValidationBatches, FeatureCache, check_frozen
from training.fit.lightning_module import ClipModule, predict_proba, with_count
from training.fit.run_folder import build_model
from training.models import ClipModel
from training.recipe import Recipe

MODULES: dict[str, type[ClipModule]] = {"camera_events": CameraEventsModule}
"""The Lightning modules of the kinds of data that need their own; the others use `ClipModule`."""


@dataclass(frozen=True, slots=True, kw_only=True)
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
