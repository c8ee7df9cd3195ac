"""Write the parts of a model card that programs read: YAML front matter for model hubs, and hyperparameters.

The front matter has the keys of Hugging Face's model cards: https://huggingface.co/docs/hub/model-cards
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import yaml
from pydantic import BaseModel

from training.recipe import Recipe

_LICENCES: Final = (
    "agpl-3.0", "apache-2.0", "bsd-2-clause", "bsd-3-clause", "cc-by-3.0", "cc-by-4.0", "cc-by-nc-4.0",
    "cc-by-nc-nd-4.0", "cc-by-nc-sa-4.0", "cc-by-nd-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0", "cc0-1.0", "eupl-1.2",
    "gpl-2.0", "gpl-3.0", "isc", "lgpl-2.1", "lgpl-3.0", "mit", "mpl-2.0", "openrail", "unknown", "unlicense",
)  # fmt: skip
"""The licences that the hub knows by a name of their own."""
_METRICS: Final = {
    "top1": ("accuracy", "top-1"),
    "top5": ("accuracy", "top-5"),
    "auc": ("roc_auc", "AUC"),
    "map": ("map", "mAP"),
    "macro_f1": ("f1", "macro F1"),
}
"""The hub's type and a title for figures whose own names the hub does not know."""
_NOT_HYPERPARAMETERS: Final = frozenset(
    ("name", "version", "licence", "about", "data", "accelerator", "threads", "num_workers", "golden", "start_strict")
)


def front_matter(
    *, name: str, licence: str, datasets: Sequence[str] = (), data: str = "", figures: Mapping[str, float] | None = None
) -> str:
    """Write the front matter. `data` describes the clips on which `figures` were measured."""
    known = _slug(licence.split(", as ")[0])
    head: dict[str, Any] = (
        {"license": known} if known in _LICENCES else {"license": "other", "license_name": _slug(licence)}
    )
    head |= {"library_name": "streamclf", "pipeline_tag": "video-classification", "tags": ["onnx", "streamclf"]}
    if datasets:
        head["datasets"] = list(dict.fromkeys(_slug(dataset) for dataset in datasets))
    rows = [_metric(figure, value) for figure, value in (figures or {}).items() if figure != "clips"]
    if rows:
        head["metrics"] = sorted({row["type"] for row in rows})
        task = {"type": "video-classification", "name": "Video Classification"}
        source = {
            "type": head.get("datasets", ["unknown"])[0],
            "name": re.sub(r"\s+", " ", data),
            "split": "validation",
        }
        head["model-index"] = [{"name": name, "results": [{"task": task, "dataset": source, "metrics": rows}]}]
    return f"---\n{yaml.safe_dump(head, sort_keys=False, allow_unicode=True, width=110)}---\n\n"


def hyperparameters(recipe: Recipe) -> str:
    """Write the recipe's keys as a Markdown table, without those of the data and of the machine."""
    rows = [f"| `{key}` | {_text(value)} |" for key, value in _flat(recipe)]
    return "\n".join(["", "## Hyperparameters", "", "| key | value |", "|---|---|", *rows, ""])


def _flat(section: BaseModel, prefix: str = "") -> list[tuple[str, Any]]:
    """Return the keys of a section and of its own sections, with a value each, except those without an effect."""
    rows: list[tuple[str, Any]] = []
    unused = getattr(section, "unused_keys", ())
    for name in type(section).model_fields:
        value = getattr(section, name)
        if value is None or name in unused or (not prefix and name in _NOT_HYPERPARAMETERS):
            continue
        if prefix == "augment." and value == type(section).model_fields[name].default:
            continue  # an augmentation that is off
        rows += _flat(value, f"{prefix}{name}.") if isinstance(value, BaseModel) else [(prefix + name, value)]
    return rows


def table_cell(text: str) -> str:
    """Return text that stays within one cell of a Markdown table."""
    return re.sub(r"\s+", " ", text).replace("|", "\\|")


def _text(value: Any) -> str:
    """Format a value for a table; a path, which belongs to one machine, is reduced to its file name."""
    if isinstance(value, Path) or (isinstance(value, str) and value.endswith(".safetensors")):
        value = Path(value).name
    elif isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    elif isinstance(value, tuple):
        value = list(value)
    return table_cell(str(value))


def _metric(figure: str, value: float) -> dict[str, Any]:
    kind, title = _METRICS.get(figure, (figure, figure.replace("_", " ")))
    if figure.endswith("balanced_accuracy"):
        kind = "balanced_accuracy"
    return {"type": kind, "name": title, "value": round(float(value), 5)}


def _slug(text: str) -> str:
    """Return a name of lower-case letters, digits, dots and hyphens, as the hub's identifiers have."""
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-.")[:96] or "unknown"
