"""Turn a model's logits into probabilities, and find the labels that are present in a window."""

from __future__ import annotations

import numpy as np

from engines.arrays import F32
from engines.bundle import ModelSpec


def activate(spec: ModelSpec, logits: F32) -> F32:
    """Map logits (..., K) to float32 probabilities (..., K) by the activation of the model, in a new array."""
    return softmax(logits) if spec.activation == "softmax" else sigmoid(logits)


def softmax(logits: F32) -> F32:
    """Map logits (..., K) to float32 probabilities (..., K) that sum to 1, in a new array."""
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    probabilities: F32 = shifted / shifted.sum(axis=-1, keepdims=True)
    return probabilities


def sigmoid(logits: F32) -> F32:
    """Map logits (..., K) to independent float32 probabilities (..., K), in a new array.

    The exponent is never positive, so that large logits of either sign overflow nothing.
    """
    small = np.exp(-np.abs(logits))
    probabilities: F32 = np.where(logits < 0, small, np.float32(1)) / (1 + small)
    return probabilities


def present_labels(spec: ModelSpec, probabilities: F32) -> list[int]:
    """Return the labels that are present in a window, by index, the most probable first; `probabilities` is (K,).

    With softmax this is the most probable label. With sigmoid these are the labels at or above their thresholds: none,
    one or several.
    """
    if spec.activation == "softmax":
        return [int(probabilities.argmax())]
    found = np.flatnonzero(probabilities >= spec.label_thresholds)
    order: list[int] = found[np.argsort(-probabilities[found], kind="stable")].tolist()
    return order
