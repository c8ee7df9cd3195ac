"""Names of clips in published data sets: the groups in UCF101's file names, and Kinetics' names of films and times."""

from __future__ import annotations

import re
from collections.abc import Mapping

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
