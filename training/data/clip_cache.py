"""Keep decoded clips on disk, so that no clip is decoded twice.

Each clip is one file. Its name is a digest of the film and of all settings that decoding depends on.
"""

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

from engines.printable import printable
from streamclf.config.picture_area import WHOLE
from training.data.decode import DecodeSpec, decode_clip
from training.data.file_names import unreadable_reason
from training.data.pool import map_in_processes
from training.errors import DataError

VERSION = 2
"""Raise this number when a change of the code changes the frames decoded from the same file."""
MAX_UNREADABLE = 0.05
"""The largest share of unreadable clips that is accepted. A larger share points at a wrong path or a cut download."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredClip:
    """The result of decoding one clip: the file with its frames, or the reason why there is none."""

    frames: Path | None
    facts: dict[str, int]
    reason: str = ""


@contextmanager
def exclusive_folder(folder: Path) -> Iterator[None]:
    """Hold `folder` for this process. Of several processes that start together, one decodes and the others wait.

    Raises `DataError` where the folder cannot be made or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("w")
    except OSError as error:
        raise DataError(
            f"{folder}: cannot be written ({error.strerror}); give another folder, for decoded clips as data.cache"
        ) from error
    with lock as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # needs no deadline: the kernel releases the lock when its holder dies
        yield


def write_array(path: Path, array: npt.NDArray[np.generic]) -> None:
    """Write `array` as .npy, completely or not at all."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with partial.open("wb") as file:
            np.save(file, array, allow_pickle=False)
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise DataError(
            f"{path}: cannot be written ({error.strerror}); give data.cache a folder with free space"
        ) from error


def read_array(path: Path) -> npt.NDArray[np.generic]:
    """Open an .npy file as a read-only view. Raises `DataError` where it is missing or damaged."""
    try:
        array: npt.NDArray[np.generic] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(
            f"{path}: missing or damaged file of the clip cache ({error}); delete it and start again"
        ) from error
    return array


def store_clips(paths: Sequence[Path], spec: DecodeSpec, folder: Path, *, workers: int) -> list[StoredClip]:
    """Decode the clips that `folder` lacks, with `workers` processes. A killed call resumes where it stopped.

    Clips that cannot be read are returned with their reason. The cache does not store the reasons: the next call
    tries to decode these clips again. Raises `DataError` where they are more than 5 % of all.
    """
    with exclusive_folder(folder):
        keys = [_key(path, spec) for path in paths]
        missing = {
            key.stem: (path, spec, folder / key.stem)
            for path, key in zip(paths, keys, strict=True)
            if key.stem and _read(folder / key.stem) is None
        }
        failures: dict[str, str] = {}
        jobs = list(missing.values())
        results = map_in_processes(_store, jobs, workers=workers, chunksize=4, describe=lambda job: str(job[0]))
        for count, (stem, reason) in enumerate(results, start=1):
            if reason:
                failures[stem] = reason
            if count % 100 == 0 or count == len(missing):
                print(f"decoded {count} of {len(missing)} clips", file=sys.stderr, flush=True)
    stored = []
    for path, key in zip(paths, keys, strict=True):
        clip = _read(folder / key.stem) if key.stem and key.stem not in failures else None
        reason = f"{printable(path)}: {key.reason or failures.get(key.stem, 'cannot be decoded')}"
        stored.append(clip or StoredClip(frames=None, facts={}, reason=reason))
    check_unreadable([item.reason for item in stored if item.frames is None], len(stored))
    return stored


def check_unreadable(reasons: Sequence[str], clips: int) -> None:
    """Raise `DataError` where more than 5 % of `clips` cannot be read; `reasons` has one entry for each of these."""
    if len(reasons) > MAX_UNREADABLE * clips:
        raise DataError(
            f"{len(reasons)} of {clips} clips cannot be read, at most {MAX_UNREADABLE:.0%} may: "
            + "; ".join(reasons[:5])
            + ("; …" if len(reasons) > 5 else "")
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Key:
    """The digest that names a decoded clip's files, or the reason why the clip cannot be read at all."""

    stem: str = ""
    reason: str = ""


def _key(path: Path, spec: DecodeSpec) -> _Key:
    if reason := unreadable_reason(path):
        return _Key(reason=reason)
    facts = {key: value for key, value in asdict(spec).items() if key != "area"}
    if spec.area != WHOLE:  # so that older caches stay valid
        facts["area"] = asdict(spec.area)
    digest = hashlib.sha256(json.dumps([VERSION, av.__version__, cv2.__version__, facts], sort_keys=True).encode())
    try:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError as error:
        return _Key(reason=f"cannot be read ({error.strerror})")
    return _Key(stem=digest.hexdigest()[:24])


def _store(job: tuple[Path, DecodeSpec, Path]) -> tuple[str, str]:
    """Decode one clip, and return its key and the reason why it cannot be decoded, or "".

    The clip's JSON is written last, so a clip that has a JSON file is complete.
    """
    path, spec, stem = job
    try:
        decoded = decode_clip(path, spec)
    except DataError as error:
        return stem.name, str(error).removeprefix(f"{printable(path)}: ")
    write_array(stem.with_name(f"{stem.name}.npy"), decoded.frames)
    partial = stem.with_name(f".{stem.name}.json.{os.getpid()}")
    try:
        partial.write_text(json.dumps(decoded.facts), encoding="utf-8")
        partial.replace(stem.with_name(f"{stem.name}.json"))
    except OSError as error:
        raise DataError(
            f"{stem}: cannot be written ({error.strerror}); give data.cache a folder with free space"
        ) from error
    return stem.name, ""


def _read(stem: Path) -> StoredClip | None:
    """Read what the cache has of a clip; None where it has no frames of it."""
    path = stem.with_name(f"{stem.name}.json")
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        if "reason" in facts:  # older caches stored reasons, with the path of the clip in another data set
            return None
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{path}: damaged file of the clip cache ({error}); delete it and start again") from error
    return StoredClip(frames=stem.with_name(f"{stem.name}.npy"), facts=facts)
