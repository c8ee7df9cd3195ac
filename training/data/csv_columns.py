"""Recognise the columns of a CSV list of clips by their names, and refuse columns whose meaning is not certain."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from training.data.clips import SPLITS
from training.errors import DataError

Record = tuple[int, list[str]]
"""The number of a line of a CSV file, and its fields."""

# Each tuple holds names that mean the same. Names of an earlier tuple are preferred to those of a later one.
PATH_COLUMNS = (
    ("path",),
    ("file_path", "filepath", "video_path", "videopath", "clip_path"),
    ("file", "filename", "file_name", "video_file", "video_filename", "clip_file"),
    ("video", "clip"),
    ("video_name", "clip_name"),
)
LABEL_COLUMNS = (
    ("label",),
    ("class", "class_name", "classname", "class_label", "label_name"),
    ("tag", "category", "action", "activity"),
)
SPLIT_COLUMNS = (
    ("split",),
    ("splits", "subset", "set", "fold", "phase", "partition", "usage", "data_split", "dataset_split", "split_name"),
)
GROUP_COLUMNS = (("group",), ("groups", "group_id", "groupid"))
YOUTUBE_COLUMNS = ("youtube_id", "time_start", "time_end")
"""Columns of Kinetics' lists. They name a clip by its film and its time instead of its path."""

CHARADES_COLUMNS = ("id", "subject", "script", "actions", "length")
"""Columns of the lists of Charades, whose clips have several labels."""

SPLIT_WORDS = frozenset(
    {*SPLITS, "split", "splits", "subset", "set", "fold", "folds", "kfold", "cv", "phase", "partition", "usage"}
)
_OF_SPLITS = f"(?:{'|'.join(SPLITS)}|eval|evaluation|holdout|heldout|trn|tst)"
SPLIT_NAME = re.compile(rf"(?:is|for|in|use|used)?{_OF_SPLITS}+(?:set|split|data|flag|clip|video)?s?")
"""Names made of names of splits, without signs between the words: `istrain`, `trainval`, `heldout`, `testset`."""
EXAMPLE = "path,label,split,group"
MAX_VALUES = 8
MAX_SPLITS = 20
"""A column with more different values than this holds no splits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """The index of each column that a list of clips uses. `path` is None in Kinetics' lists, which have `youtube`."""

    path: int | None
    youtube: tuple[int, int, int] | None
    label: int
    split: int | None
    group: int | None
    unused: tuple[str, ...]
    is_charades: bool = False
    """Whether `path` holds names of clips without a folder and suffix, and `label` codes of classes with times."""


def find_columns(path: Path, header: Sequence[str], records: Sequence[Record]) -> Columns:
    """Return the columns of the list `path`.

    Raises `DataError` where a column is missing or ambiguous, and where a column may be a split that is not known.
    """
    names = [plain_name(name) for name in header]
    if set(CHARADES_COLUMNS) <= set(names):
        clips, actions = names.index("id"), names.index("actions")
        return Columns(path=clips, youtube=None, label=actions, split=None, group=None, unused=(), is_charades=True)
    youtube = None
    clip = _find(path, names, PATH_COLUMNS)
    if clip is None and all(name in names for name in YOUTUBE_COLUMNS):
        youtube = (names.index("youtube_id"), names.index("time_start"), names.index("time_end"))
    label = _find(path, names, LABEL_COLUMNS)
    if (clip is None and youtube is None) or label is None:
        raise _missing_column(path, header, PATH_COLUMNS if clip is None and youtube is None else LABEL_COLUMNS)
    group = _find(path, names, GROUP_COLUMNS)
    if group is None:
        _check_no_group(path, names)
    taken = {clip, label, group, *(youtube or ())}
    others = [index for index, name in enumerate(names) if index not in taken and name]
    split = _find_split(path, names, others, records)
    unused = tuple(header[index].strip() for index in others if index != split)
    return Columns(path=clip, youtube=youtube, label=label, split=split, group=group, unused=unused)


def plain_name(name: str) -> str:
    """Return a column's name for comparison: `" Video-Path"` becomes `video_path`."""
    plain = unicodedata.normalize("NFKC", name).replace("\ufeff", "").strip(" \t\r\n#\"'").casefold()
    return re.sub(r"[\s\-./]+", "_", plain)


def _find(path: Path, names: Sequence[str], tiers: Sequence[Sequence[str]]) -> int | None:
    """Return the index of the column with the most preferred name. Raises `DataError` where several have it."""
    for tier in tiers:
        found = [index for index, name in enumerate(names) if name in tier]
        if len(found) > 1:
            given = " and ".join(repr(names[index]) for index in found)
            raise DataError(f"{path}: the columns {given} mean the same; keep one of them, named {tiers[0][0]!r}")
        if found:
            return found[0]
    return None


def _check_no_group(path: Path, names: Sequence[str]) -> None:
    """Raise `DataError` for a misspelt column of groups; without groups, clips of one source reach both splits."""
    if found := difflib.get_close_matches("group", names, n=1, cutoff=0.75):
        raise DataError(f"{path}: no column {found[0]!r} is known; rename it to group, or remove it")


def _find_split(path: Path, names: Sequence[str], others: Sequence[int], records: Sequence[Record]) -> int | None:
    """Return the column of splits. A column that may hold splits is used, or refused, but never ignored."""
    values = {index: _values(records, index) for index in others}
    named = [index for index in others if names[index] in (name for tier in SPLIT_COLUMNS for name in tier)]
    filled = [index for index in named if values[index]]
    with_splits = [index for index in others if values[index] and values[index] <= SPLITS.keys()]
    if "split" in names:
        chosen = names.index("split")
        for index in with_splits:
            if any(_split_of(fields, index) != _split_of(fields, chosen) for _, fields in records):
                raise DataError(
                    f"{path}: the columns 'split' and {names[index]!r} give different splits; remove one of them"
                )
        return chosen
    if len(filled) == 1 and set(with_splits) <= set(filled):
        if filled != with_splits:
            raise DataError(
                f"{path}: the column {names[filled[0]]!r} holds {_list(values[filled[0]])}, which are no names of "
                f"splits; write one of {', '.join(SPLITS)} into it, rename it to group if its clips belong together, "
                "or remove it"
            )
        return filled[0]
    suspects = [index for index in others if _looks_like_split(names[index]) or _look_like_splits(values[index])]
    suspects = [index for index in suspects if values[index]]
    if suspects:
        given = " and ".join(repr(names[index]) for index in suspects)
        raise DataError(
            f"{path}: {given} may say which clips are for validation ({_list(values[suspects[0]])}), but no such "
            f"column is known; rename one to split, with the values {', '.join(SPLITS)}, and remove others"
        )
    return None


def _looks_like_split(name: str) -> bool:
    words = set(re.split(r"[\W_\d]+", name))
    return (
        bool(words & SPLIT_WORDS)
        or SPLIT_NAME.fullmatch(re.sub(r"[\W_\d]+", "", name)) is not None
        or bool(difflib.get_close_matches(name, ("split", "subset"), cutoff=0.8))
    )


def _look_like_splits(values: set[str]) -> bool:
    """Tell whether one of a few values is the name of a split, or contains one, such as `eval` or `train_1`."""
    words = {word for value in values for word in re.split(r"[^a-z]+", value)} if len(values) <= MAX_SPLITS else set()
    return any(SPLIT_NAME.fullmatch(word) for word in words)


def _values(records: Sequence[Record], index: int) -> set[str]:
    return {value for _, fields in records if (value := _field(fields, index).casefold())}


def _split_of(fields: Sequence[str], index: int) -> str:
    value = _field(fields, index).casefold()
    return SPLITS.get(value, value)


def _field(fields: Sequence[str], index: int) -> str:
    return fields[index].strip() if index < len(fields) else ""


def _list(values: set[str]) -> str:
    shown = [repr(value[:40]) for value in sorted(values)[:MAX_VALUES]]
    return ", ".join(shown) + (", …" if len(values) > MAX_VALUES else "")


def _missing_column(path: Path, header: Sequence[str], tiers: Sequence[Sequence[str]]) -> DataError:
    known = " or ".join(name for tier in tiers for name in tier)
    given = ", ".join(name.strip()[:40] for name in header[:20]) or "an empty file"
    return DataError(
        f"{path}: no column {known} in its first line ({given}); the first line names the columns, such as {EXAMPLE}"
    )
