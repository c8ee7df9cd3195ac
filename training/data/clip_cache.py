"""Decoded clips on disk, one file each, named by a digest of all that they depend on. Nothing is decoded twice."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import av
import cv2
import numpy as np
import numpy.typing as npt

from training.data.decode import DecodeSpec, decode_clip
from training.data.pool import pooled
from training.errors import DataError

VERSION = 1
"""Raise it when the code decodes the same file otherwise."""
MAX_UNREADABLE = 0.05
"""A larger share of clips that cannot be read is no accident."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """What became of one clip: where its frames lie, or why there are none."""

    frames: Path | None
    facts: dict[str, int]
    reason: str = ""


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold `folder` for this process: of several that start together, one decodes and the others wait for it."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # no deadline: the kernel gives it back when its holder dies
        yield


def write_array(path: Path, array: npt.NDArray[np.generic]) -> None:
    """Write `array` as .npy, whole or not at all."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with partial.open("wb") as file:
            np.save(file, array, allow_pickle=False)
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise DataError(f"{path}: cannot be written ({error.strerror}); give data.cache a folder with room") from error


def read_array(path: Path) -> npt.NDArray[np.generic]:
    """A read-only view of an .npy file. Raises `DataError` where it is gone or damaged."""
    try:
        array: npt.NDArray[np.generic] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path}: not a cached clip any more ({error}); delete it and start again") from error
    return array


def store_clips(paths: Sequence[Path], spec: DecodeSpec, folder: Path, *, workers: int) -> list[Stored]:
    """Decode what `folder` lacks, with `workers` processes; killed, it goes on where it stopped.

    A clip that cannot be read is said on stderr and left out. Raises `DataError` where that happens to more than
    5 % of them.
    """
    with alone(folder):
        keys = [_key(path, spec) for path in paths]
        missing = [
            (path, spec, folder / key)
            for path, key in zip(paths, keys, strict=True)
            if key is not None and not (folder / f"{key}.json").is_file()
        ]
        for count, _ in enumerate(pooled(_store, missing, workers=workers, at_once=4), start=1):
            if count % 100 == 0 or count == len(missing):
                print(f"decoded {count} of {len(missing)} clips", file=sys.stderr, flush=True)
    stored = [
        Stored(frames=None, facts={}, reason=f"{path}: no such file, or it may not be read")
        if key is None
        else _read(folder / key)
        for path, key in zip(paths, keys, strict=True)
    ]
    _judge(stored)
    return stored


def _judge(stored: Sequence[Stored]) -> None:
    unreadable = [item.reason for item in stored if item.frames is None]
    if len(unreadable) > MAX_UNREADABLE * len(stored):
        raise DataError(
            f"{len(unreadable)} of {len(stored)} clips cannot be read, at most {MAX_UNREADABLE:.0%} may: "
            + "; ".join(unreadable[:5])
            + ("; …" if len(unreadable) > 5 else "")
        )


def _key(path: Path, spec: DecodeSpec) -> str | None:
    """The digest under which a clip is kept; None where it cannot be read at all."""
    digest = hashlib.sha256(
        json.dumps([VERSION, av.__version__, cv2.__version__, asdict(spec)], sort_keys=True).encode()
    )
    try:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError:
        return None
    return digest.hexdigest()[:24]


def _store(job: tuple[Path, DecodeSpec, Path]) -> None:
    """Decode one clip; its JSON comes last, so that what has one is whole."""
    path, spec, stem = job
    try:
        decoded = decode_clip(path, spec)
    except DataError as error:
        facts: dict[str, object] = {"reason": str(error)}
    else:
        write_array(stem.with_name(f"{stem.name}.npy"), decoded.frames)
        facts = dict(decoded.facts)
    partial = stem.with_name(f".{stem.name}.json.{os.getpid()}")
    partial.write_text(json.dumps(facts), encoding="utf-8")
    partial.replace(stem.with_name(f"{stem.name}.json"))


def _read(stem: Path) -> Stored:
    path = stem.with_name(f"{stem.name}.json")
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        reason = facts.pop("reason", "")
    except (OSError, ValueError, AttributeError) as error:
        raise DataError(f"{path}: not what was written there ({error}); delete it and start again") from error
    return Stored(frames=None if reason else stem.with_name(f"{stem.name}.npy"), facts=facts, reason=reason)
