"""Names in published data sets: UCF101's groups, Kinetics' films and times, and the classes of Charades."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from training.errors import DataError

UCF101_NAME = re.compile(r"v_(?P<label>\w+?)_g(?P<group>\d+)_c\d+\.\w+$")


def ucf101_group(name: str) -> str:
    """Return the group in the name of a UCF101 file, the same for files of one source; "" for other names."""
    found = UCF101_NAME.search(name)
    return f"{found['label']}-g{found['group']}" if found else ""


def kinetics_clip(clips: Mapping[str, str], film: str, start: str, end: str) -> str | None:
    """Return the path of a clip of Kinetics among `clips`, which are paths by stem; None where it is absent.

    The official files are named for the film and its time in seconds, such as `0a1b_000010_000020`; other copies
    have the film's name only.
    """
    try:
        name = f"{film}_{int(float(start)):06}_{int(float(end)):06}"
    except (ValueError, OverflowError):
        name = film
    return clips.get(name) or clips.get(film)


def read_charades_classes(path: Path) -> dict[str, str]:
    """Return the names of the classes by their codes, such as c000, from `Charades_v1_classes.txt`.

    Raises `DataError` where the file is missing or damaged.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error}); put the file of the classes beside the list") from error
    classes = {code: name.strip() for code, _, name in (line.partition(" ") for line in lines if line.strip())}
    if not classes or not all(classes.values()):
        raise DataError(f"{path}: not the classes of Charades; each line is a code and a name, like c000 Holding a cup")
    return classes


def charades_labels(actions: str, classes: Mapping[str, str]) -> list[str]:
    """Return the names of the classes in a cell like `c092 11.90 21.20;c147 0.00 12.60`. Raises `KeyError`."""
    codes = [item.split()[0] for item in actions.split(";") if item.strip()]
    return [classes[code] for code in dict.fromkeys(codes)]
