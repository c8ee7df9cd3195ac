"""Read the JSON files of a Hugging Face model folder, and check config.json."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ValidationError

from engines.regular_file import NotRegularFileError, open_regular
from training.errors import FolderError
from training.importing.config import FolderConfig, VideoPrismConfig, VJepa2Config, WindowAttentionConfig
from training.weights import WEIGHTS_FILE

CONFIG_FILE = "config.json"
PROCESSOR_FILE = "preprocessor_config.json"
VIDEO_PROCESSOR_FILE = "video_preprocessor_config.json"
COMBINED_FILE = "processor_config.json"
"""Transformers 5 nests several processors in one file."""
MAX_JSON_BYTES = 1 << 20

CONFIGS: Final[dict[str, type[FolderConfig]]] = {
    "vivit": WindowAttentionConfig,
    "videomae": WindowAttentionConfig,
    "timesformer": WindowAttentionConfig,
    "videoprism_vision_model": VideoPrismConfig,
    "vjepa2": VJepa2Config,
}
"""The class for each `model_type` in config.json."""
WORDS_KINDS: Final = ("clip", "siglip", "siglip2", "videoprism")
"""Each `model_type` with a text tower, whose labels the user gives in words."""

_Keys = TypeVar("_Keys", bound=BaseModel)


def read_config(folder: Path) -> FolderConfig:
    """Read and check config.json. Raises `FolderError` with the key, the value and the reason."""
    tree = read_json(folder / CONFIG_FILE)
    kind = tree.get("model_type")
    if not isinstance(kind, str) or kind not in CONFIGS:
        remedy = "; this model has no classifier: give --labels in words" if kind in WORDS_KINDS else ""
        raise FolderError(
            f"{folder / CONFIG_FILE}: model_type={kind!r:.80}: only {', '.join(CONFIGS)} can be imported, and with "
            f"--labels {', '.join(WORDS_KINDS)}{remedy}"
        )
    config = validate_config(CONFIGS[kind], tree, folder)
    if config.architectures and not any(name.endswith("ForVideoClassification") for name in config.architectures):
        raise FolderError(
            f"{folder / CONFIG_FILE}: architectures={list(config.architectures)!r:.200}: has no classifier; "
            "give the folder of a model fine-tuned for video classification"
        )
    return config


def validate_config(kind: type[_Keys], tree: dict[str, Any], folder: Path) -> _Keys:
    """Check the keys of a configuration. Raises `FolderError`."""
    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise FolderError(
            f"{folder / CONFIG_FILE}: {where + ': ' if where else ''}{first['msg'].removeprefix('Value error, ')}"
        ) from error


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object of at most `MAX_JSON_BYTES`. Raises `FolderError`."""
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            if size > MAX_JSON_BYTES:
                raise FolderError(f"{path}: {size} bytes, at most {MAX_JSON_BYTES}; download the folder again")
            tree = json.loads(file.read(MAX_JSON_BYTES).decode("utf-8"))
    except NotRegularFileError:
        raise FolderError(f"{path}: not a file; download the folder again") from None
    except OSError as error:
        raise FolderError(
            f"{path}: cannot be read ({error.strerror}); a folder needs {CONFIG_FILE}, {PROCESSOR_FILE}, {WEIGHTS_FILE}"
        ) from error
    except (ValueError, RecursionError) as error:
        raise FolderError(f"{path}: not JSON ({str(error).splitlines()[0]}); download it again") from error
    if not isinstance(tree, dict):
        raise FolderError(f"{path}: must be a JSON object, this is {type(tree).__name__}")
    return tree
