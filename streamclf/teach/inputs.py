"""Find the inputs of a taught model, and check that they are enough: the base, the clips and the windows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np

from engines.bundle import ENCODER_FILE, SPEC_FILE, Bundle, load_bundle
from engines.printable import path_text, printable
from streamclf.builtin_models import find_bundle
from streamclf.config.picture_area import WHOLE, PictureArea
from streamclf.errors import UsageError
from streamclf.teach.example_folder import LabelledClip, find_clips
from streamclf.teach.examples import Examples, geometry_of, load_examples
from streamclf.teach.held_out import TeachingData
from streamclf.teach.limits import (
    GOOD_CLIPS,
    MAX_CLIP_WINDOWS,
    MAX_FEATURE_BYTES,
    MAX_WINDOWS,
    MIN_CLIPS,
    MIN_GROUPS,
    NONE_FOLDERS,
)
from streamclf.teach.listener import Listener
from streamclf.teach.same_films import check_labels, group_examples

DEFAULT_BASE: Final = "everyday"
MAX_CHUNKS: Final = 64
"""The most chunks in a window."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TeachOptions:
    """The options of `teach`.

    `folder`: the examples; None with `add` alone, to fit again. `base`: a built-in model or a bundle; None for the
    default, or with `add` the bundle's own encoder. `none_label`: None for a model without that label. `area`: the part
    of each picture that the model sees. `window_s`: the length of a window; None for the base's.
    """

    folder: Path | None
    output: Path
    base: str | None = None
    add: bool = False
    force: bool = False
    none_label: str | None = None
    area: PictureArea = WHOLE
    window_s: float | None = None
    seed: int = 0
    threads: int = 0


def find_base(options: TeachOptions) -> tuple[Bundle, Examples]:
    """Return the bundle whose encoder is used, and the examples from before. Raises `UsageError`."""
    if not options.add:
        base = find_bundle(options.base or DEFAULT_BASE)
        return base, Examples(base.spec.id)
    if not (options.output / SPEC_FILE).is_file():
        raise UsageError(
            f"--add: {path_text(options.output)} is no bundle; teach it first, without --add, or give its folder"
        )
    own = load_bundle(options.output)
    before = load_examples(own.path, own.spec)
    if options.base is not None:
        base = find_bundle(options.base)
        same = base.spec.files[ENCODER_FILE] == own.spec.files[ENCODER_FILE]
        if not same or geometry_of(base.spec) | {"chunks": own.spec.chunks} != geometry_of(own.spec):
            raise UsageError(
                f"--base {printable(options.base)}: has another encoder than {path_text(own.path)}, whose examples are "
                "features of the former one; leave out --base, or teach again from the films without --add"
            )
    return own, before


def with_window(base: Bundle, options: TeachOptions) -> Bundle:
    """Return the base with windows of the wanted length. Raises `UsageError`."""
    if options.window_s is None:
        return base
    longest = MAX_CHUNKS * base.spec.chunk_s
    if not base.spec.chunk_s <= options.window_s <= longest:  # nor NaN
        raise UsageError(f"--window {options.window_s:g}: must be {base.spec.chunk_s:g} to {longest:g} seconds")
    chunks = round(options.window_s / base.spec.chunk_s)
    if options.add and chunks != base.spec.chunks:
        raise UsageError(
            f"--window {options.window_s:g}: the examples of {path_text(base.path)} have windows of "
            f"{base.spec.window_s:g} s; leave out --window, or teach again from the films without --add"
        )
    return replace(base, spec=base.spec.model_copy(update={"chunks": chunks}))


def with_area(options: TeachOptions, before: Examples, log: Listener) -> TeachOptions:
    """Return the options with the part of the picture of the examples from before, unless they name another."""
    if options.area == before.area or not before.items:
        return options
    if options.area == WHOLE:
        if options.folder is not None:
            log.note(f"new films are read with the part of the picture of the examples before: {_shown(before.area)}")
        return replace(options, area=before.area)
    log.note(f"the examples before show another part of the picture: {_shown(before.area)}")
    return options


def _shown(area: PictureArea) -> str:
    keys = area.keys
    return ", ".join(f"{key} {value}" for key, value in keys.items()) or "all of it"


def find_new_clips(options: TeachOptions, before: Examples, log: Listener) -> Sequence[LabelledClip]:
    """Find the clips of the folder, announce them, and check that there are enough. Raises `UsageError`."""
    if options.folder is None:
        if not before.items:
            raise UsageError("FOLDER: give the folder with one subfolder of films for each label")
        clips: list[LabelledClip] = []
        found_faults: list[tuple[str, str]] = []
    else:
        found = find_clips(options.folder)
        clips, found_faults = found.clips, found.faults
    clips = [_named(clip, options.none_label) for clip in clips]
    counts: dict[str, int] = {}
    for label in [*(item.row.label for item in before.items), *(clip.label for clip in clips)]:
        counts[label] = counts.get(label, 0) + 1
    _check_counts(counts, options.none_label)
    log.start(before.base, counts, len({clip.path for clip in clips}))
    for film, reason in found_faults:
        log.fault(film, reason)
    return clips


def _named(clip: LabelledClip, none_label: str | None) -> LabelledClip:
    """Return the clip, with the label "none of these" if its folder is named for it."""
    if none_label is None or clip.label.casefold() not in (*NONE_FOLDERS, none_label.casefold()):
        return clip
    return replace(clip, label=none_label)


def _check_counts(counts: Mapping[str, int], none_label: str | None) -> None:
    """Raise `UsageError` unless there are two labels with enough clips each."""
    if len(counts) < 2:
        (only,) = counts
        if only == none_label:
            raise UsageError("only films of none of the labels; add a folder of films for each label")
        raise UsageError(
            f"one label, {printable(only)!r}; at least two are needed: add a folder of the opposite, such as `normal`, "
            "or a folder `none` with films that show something else"
        )
    for label, count in counts.items():
        if count < MIN_CLIPS:
            raise UsageError(
                f"{printable(label)!r}: {count} clips; at least {MIN_CLIPS} are needed, from different moments. In "
                f"trials, {MIN_CLIPS} clips a label gave 63 % of two labels right, and {GOOD_CLIPS} gave 73 %"
            )


def window_limit(base: Bundle, clips: int) -> int:
    """Return the most windows of a clip, so that all windows fit into memory. Raises `UsageError`."""
    size = base.spec.chunks * int(np.prod(base.spec.feature_shape)) * np.dtype(np.float32).itemsize
    limit = min(MAX_CLIP_WINDOWS, MAX_WINDOWS // max(clips, 1), MAX_FEATURE_BYTES // (size * max(clips, 1)))
    if size * clips > MAX_FEATURE_BYTES:
        most = MAX_FEATURE_BYTES // size
        raise UsageError(f"{clips} clips; with {base.spec.id} at most {most} fit into memory: leave some out")
    return max(1, limit)


def make_data(options: TeachOptions, base: Bundle, examples: Examples, log: Listener) -> TeachingData:
    """Group the examples, and check that they are enough, now that unreadable films are left out."""
    counts: dict[str, int] = {}
    for item in examples.items:
        counts[item.row.label] = counts.get(item.row.label, 0) + 1
    if not counts:
        raise UsageError(f"{path_text(options.folder or options.output)}: no film could be read; see the lines above")
    _check_counts(counts, options.none_label)
    check_labels(examples.items)
    groups, notes = group_examples(examples.items)
    for note in notes:
        log.note(note)
    names = sorted((label for label in counts if label != options.none_label), key=str.casefold)
    none = len(names) if options.none_label in counts else None
    names += [options.none_label] if options.none_label is not None and none is not None else []
    numbers = {name: number for number, name in enumerate(names)}
    labels = np.array([numbers[item.row.label] for item in examples.items], np.int64)
    for name, number in numbers.items():
        if len(np.unique(groups[labels == number])) < MIN_GROUPS:
            raise UsageError(
                f"{printable(name)!r}: all of its {counts[name]} clips are one recording, so none can be held out to "
                "measure the result; add clips of another recording"
            )
    clips = examples.clip_of_windows()
    windows = examples.windows()
    spec = base.spec
    return TeachingData(
        windows=windows.reshape(len(windows), spec.chunks, -1),
        labels=labels[clips],
        clips=clips,
        groups=groups[clips],
        names=tuple(names),
        parts=spec.feature_parts or {"feature": int(np.prod(spec.feature_shape))},
        none=none,
    )
