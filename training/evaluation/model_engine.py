"""Run a PyTorch model through the interface of an engine, so that films are read and classified as in serving."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from engines.activation import activate
from engines.arrays import F32, I32, U8
from engines.bundle import ModelSpec
from training.models import ClipModel


class ModelEngine:
    """See `engines.protocol.Engine`. The features are kept in a tensor."""

    def __init__(self, model: ClipModel, spec: ModelSpec, *, max_batch: int, bank_slots: int) -> None:
        self.spec, self.max_batch, self.bank_slots = spec, max_batch, bank_slots
        self.description, self.precision, self.queues_work = "PyTorch", "fp32", False
        self._model = model.eval()
        self._bank: Tensor | None = None

    def encode(self, frames: U8, slots: I32) -> None:
        """See `Engine`."""
        with torch.inference_mode():
            features: Tensor = self._model.encoder(torch.from_numpy(frames))
            if self._bank is None:
                self._bank = torch.zeros(self.bank_slots, *features.shape[1:])
            self._bank[torch.from_numpy(slots).long()] = features

    def classify(self, windows: I32) -> F32:
        """See `Engine`."""
        assert self._bank is not None
        with torch.inference_mode():
            logits: Tensor = self._model.head(self._bank[torch.from_numpy(windows).long()])
        return activate(self.spec, logits.numpy())

    def submit(self, windows: I32) -> Callable[[], F32]:
        """See `Engine`."""
        probabilities = self.classify(windows)
        return lambda: probabilities

    def read_features(self, slots: I32) -> F32:
        """See `Engine`."""
        assert self._bank is not None
        features: F32 = self._bank[torch.from_numpy(slots).long()].numpy()
        return features

    def write_features(self, features: F32, slots: I32) -> None:
        """See `Engine`."""
        assert self._bank is not None
        self._bank[torch.from_numpy(slots).long()] = torch.from_numpy(features)

    def close(self) -> None:
        """See `Engine`."""
        self._bank = None
