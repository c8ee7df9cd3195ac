"""Name the classes of a checkpoint, also where its config.json does not."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from engines.bundle import MAX_LABEL_CHARS
from training.errors import FolderError
from training.importing.checkpoint import count_rows
from training.importing.config import MAX_LABELS, FolderConfig

CLASSIFIER = "classifier.weight"
"""The tensor with one row per class."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassNames:
    """The class names of a checkpoint in the order of its logits; `notes` tell of names that its folder lacks."""

    names: tuple[str, ...]
    notes: tuple[str, ...] = ()


def read_class_names(folder: Path, config: FolderConfig, *, weights: bool = True) -> ClassNames:
    """Return one name for each output of the folder's classifier.

    They come from `id2label`, or from `label2id`. If config.json has neither, the names are LABEL_0, LABEL_1 and so on,
    as in transformers. Without `weights` the folder needs none, and the classifier is not compared.

    Raises `FolderError` where names and outputs do not agree, or a bundle cannot have the names.
    """
    where, outputs = folder / "config.json", count_rows(folder, CLASSIFIER) if weights else None
    if outputs is not None and outputs > MAX_LABELS:
        raise FolderError(f"{folder}: the classifier has {outputs} outputs; a bundle has at most {MAX_LABELS} classes")
    names, key = dict(config.id2label), "id2label"
    if not names and config.label2id:
        names, key = {number: name for name, number in config.label2id.items()}, "label2id"
        if sorted(names) != list(range(len(config.label2id))):
            raise FolderError(f"{where}: label2id: its numbers must count from 0 without a gap")
    notes: tuple[str, ...] = ()
    if not names:
        count = outputs if outputs is not None else config.num_labels if config.num_labels is not None else 2
        names, key = {number: f"LABEL_{number}" for number in range(count)}, "num_labels"
        notes = ("config.json names no classes, so they are LABEL_0, LABEL_1 and so on",)
    if key == "num_labels" and config.num_labels not in (None, len(names)):
        raise FolderError(f"{where}: num_labels={config.num_labels}, but the classifier has {len(names)} outputs")
    if outputs is not None and len(names) != outputs:
        raise FolderError(
            f"{where}: {key} names {len(names)} classes, but the classifier has {outputs} outputs; give each a name"
        )
    if len(names) > MAX_LABELS:
        raise FolderError(f"{where}: {key} names {len(names)} classes; a bundle has at most {MAX_LABELS}")
    if len(names) < 2 and config.activation == "softmax":
        raise FolderError(
            f"{where}: {len(names)} class: a bundle needs 2 or more; a model with one output is a regression, which "
            "the engine cannot run, unless it has problem_type=multi_label_classification"
        )
    return ClassNames(
        names=_check_names(where, key, tuple(names[number].strip() for number in range(len(names)))), notes=notes
    )


def _check_names(where: Path, key: str, names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the names. Raises `FolderError` for an empty, long or repeated name."""
    for name in names:
        if not 1 <= len(name) <= MAX_LABEL_CHARS:
            raise FolderError(
                f"{where}: {key}: {name[:80]!r} has {len(name)} characters, must have 1 to {MAX_LABEL_CHARS}"
            )
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise FolderError(f"{where}: {key}: {repeated[0]!r} appears more than once; give each class a unique name")
    return names
