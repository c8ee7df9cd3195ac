"""Try the cameras of a new configuration, and describe what they send."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from engines.printable import printable
from streamclf.commands.init.cameras import NewStream
from streamclf.commands.probes import Picture, longest_s, read_picture, run_probes
from streamclf.redact import redact

MANY_TIMES: Final = 4
"""A picture this many times as wide and as high as the model's is reduced so much that a smaller one serves as well."""


def try_streams(
    streams: Sequence[NewStream], environ: Mapping[str, str], folder: Path
) -> tuple[dict[str, Picture], dict[str, str]]:
    """Read a frame of each source; return the pictures, and the reasons of those that failed, by stream."""
    sources = {stream.name: stream.source(environ, folder) for stream in streams}
    pictures: dict[str, Picture] = {}

    def probe(name: str) -> str:
        pictures[name] = read_picture(sources[name])
        return str(pictures[name])

    say(f"trying {len(streams)} camera(s)…")
    width = max(map(len, sources))
    failures = {}
    for name, found, error in run_probes(
        [(name, longest_s(source), lambda name=name: probe(name)) for name, source in sources.items()]  # type: ignore[misc]
    ):
        if error:
            failures[name] = error
        say(f"  {name:<{width}}  {f'failed: {error}' if error else found}")
    return {name: picture for name, picture in pictures.items() if name not in failures}, failures


def describe_picture(picture: Picture | None, wanted: tuple[int, int]) -> Iterator[str]:
    """Yield the comments about a camera that sends `picture` for a model with pictures of `wanted` width and height."""
    if picture is not None:
        yield printable(picture)
        if is_large(picture, wanted):
            yield "The second stream of this camera (substream) would cost less processor time."


def describe_failure(error: str | None) -> Iterator[str]:
    """Yield the comment about a camera that failed."""
    if error is not None:
        yield printable(redact(f"failed: {error}"))


def is_large(picture: Picture, wanted: tuple[int, int]) -> bool:
    """Return whether `picture` is much larger than the model's, so that a smaller one would serve as well."""
    return picture.width > MANY_TIMES * wanted[0] and picture.height > MANY_TIMES * wanted[1]


def say(text: str) -> None:
    """Print a line for the user, without credentials and control characters."""
    print(printable(redact(text)))
    sys.stdout.flush()
