"""Read the tensors of a Hugging Face model folder: one safetensors file, or an index and its shards."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

import torch
from safetensors import SafetensorError, safe_open

from training.errors import FolderError, RunError
from training.importing.folder import read_json
from training.weights import WEIGHTS_FILE, State, read_weights

INDEX_FILE: Final = f"{WEIGHTS_FILE}.index.json"
MAX_BYTES: Final = 1 << 32
"""The two graphs of a bundle hold at most 2 GiB each, as float32."""

_PICKLES: Final = (".bin", ".ckpt", ".pkl", ".pt", ".pth")
_NOT_WEIGHTS: Final = ("optimizer", "random_states", "rng_state", "scaler", "scheduler", "training_args")
"""How the names of pickles begin that a trainer writes beside the weights."""
_COUNTERS: Final = ".position_ids"
"""How the names of buffers end that only count positions: 0, 1, 2 and so on. Older checkpoints have them."""
_OTHER_FORMATS: Final = {".gguf": "llama.cpp", ".h5": "TensorFlow", ".msgpack": "Flax", ".onnx": "ONNX"}


def read_state(folder: Path) -> State:
    """Read the folder's tensors as float32; never unpickles. Raises `FolderError`.

    As in transformers, `model.safetensors` is preferred to an index. The index's `total_size` is not compared, because
    converted checkpoints often keep an old one: each shard's own header gives its size, and a tensor that the index
    names must be there.
    """
    paths, places = _find_files(folder)
    state = _read_files(paths)
    missing = sorted(name for name in set(places) - set(state) if not name.endswith(_COUNTERS))
    if missing:
        raise FolderError(
            f"{folder / INDEX_FILE}: {len(missing)} of {len(places)} tensors are in no shard, such as {missing[0]}; "
            "download the folder again"
        )
    return state


def count_rows(folder: Path, name: str) -> int | None:
    """Return the first axis of a tensor without reading its data, or None where no file has the tensor."""
    with suppress(SafetensorError, OSError):  # `read_state` says what is wrong with the file
        for path in _find_files(folder)[0]:
            with safe_open(path, framework="pt") as tensors:
                if name in tensors.keys():  # noqa: SIM118, because it is not a dictionary
                    shape = tensors.get_slice(name).get_shape()
                    return int(shape[0]) if shape else None
    return None


def _find_files(folder: Path) -> tuple[list[Path], Mapping[str, str]]:
    """Return the files with the weights, and the shard of each tensor (empty where there is one file)."""
    index = folder / INDEX_FILE
    if (folder / WEIGHTS_FILE).is_file():
        return [folder / WEIGHTS_FILE], {}
    if not index.is_file():
        raise FolderError(_why_missing(folder))
    places = _read_index(index)
    return [folder / shard for shard in sorted(set(places.values()))], places


def _read_index(index: Path) -> dict[str, str]:
    """Return the file name of the shard that holds each tensor. Raises `FolderError`."""
    folder, places = index.parent, read_json(index).get("weight_map")
    if not isinstance(places, dict) or not places or not all(isinstance(shard, str) for shard in places.values()):
        raise FolderError(f"{index}: weight_map must map the names of tensors to files; download it again")
    shards = sorted(set(places.values()))
    for shard in shards:
        # A path could lead to any file of this machine.
        if not shard.endswith(".safetensors") or not shard.isprintable() or {"/", "\\"} & set(shard):
            raise FolderError(
                f"{index}: names the shard {shard[:80]!r}; a shard must be a .safetensors file of this folder"
            )
    files = {path.name for path in folder.iterdir() if path.is_file()}
    missing = [shard for shard in shards if shard not in files]
    if missing:
        raise FolderError(
            f"{index}: {len(missing)} of {len(shards)} shards are missing, such as {missing[0][:80]}; "
            "download the folder again"
        )
    return places


def _read_files(paths: list[Path]) -> State:
    """Read all tensors of the files as float32. Raises `FolderError`."""
    size = sum(path.stat().st_size for path in paths)
    if size > MAX_BYTES:
        raise FolderError(
            f"{paths[0].parent}: {size / 1e9:.1f} GB of weights; the two graphs of a bundle hold at most "
            f"{MAX_BYTES / 1e9:.1f} GB; choose a smaller model"
        )
    state: State = {}
    origins: dict[str, Path] = {}
    for path in paths:
        try:
            tensors = read_weights(path)
        except RunError as error:
            raise FolderError(str(error)) from error
        for name, tensor in tensors.items():
            if name in origins:
                raise FolderError(
                    f"{path}: {name} is also in {origins[name].name}; the shards belong to different checkpoints: "
                    "download the folder again"
                )
            if name.endswith(_COUNTERS):
                continue
            if not tensor.is_floating_point():
                raise FolderError(
                    f"{path}: {name} has the type {str(tensor.dtype).removeprefix('torch.')}; a quantised checkpoint "
                    "cannot be imported: save the model as float32 or float16"
                )
            origins[name], state[name] = path, tensor.to(torch.float32)
            if not torch.isfinite(state[name]).all():
                raise FolderError(f"{path}: {name} has values that are not finite numbers; download it again")
    return state


def _why_missing(folder: Path) -> str:
    """Say which weights the folder has instead of safetensors, and what to do."""
    names = sorted(path.name for path in folder.iterdir() if path.is_file())
    adapters = [name for name in names if name.startswith("adapter_")]
    if adapters:
        return (
            f"{folder}: has {adapters[0]}, but no {WEIGHTS_FILE}: an adapter holds only changes to another model; "
            "merge the two with peft's merge_and_unload, and write the result with save_pretrained"
        )
    others = [name for name in names if name.endswith(".safetensors")]
    if others and "-of-" in others[0]:
        return f"{folder / INDEX_FILE}: missing, and {others[0]} is one of several shards; download the folder again"
    if others:
        return f"{folder}: has {others[0]}, but no {WEIGHTS_FILE}; if it holds the whole model, rename it"
    pickles = [name for name in names if name.endswith(_PICKLES) and not name.startswith(_NOT_WEIGHTS)]
    if pickles:
        return (
            f"{folder}: has {pickles[0]}, a pickle, which can run any code and is never read; if you trust it, "
            f"convert it to {WEIGHTS_FILE} with transformers' save_pretrained"
        )
    for name in names:
        if kind := _OTHER_FORMATS.get(Path(name).suffix):
            return (
                f"{folder}: has {name} ({kind}), but no {WEIGHTS_FILE}; load the model with transformers, and write it "
                "with save_pretrained"
            )
    return f"{folder / WEIGHTS_FILE}: missing, and so is {INDEX_FILE}; download the folder again"
