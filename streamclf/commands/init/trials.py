"""Try the cameras of a new configuration, and describe what they send."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from engines.printable import printable
from streamclf.commands.init.cameras import NewStream
from streamclf.commands.probes import Picture, longest_s, read_picture, run_probes
from streamclf.commands.substream import ModelPicture, describe_substream
from streamclf.redact import redact


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


def find_substreams(
    streams: Sequence[NewStream], pictures: Mapping[str, Picture], wanted: tuple[int, int]
) -> dict[str, str]:
    """Return a sentence for each camera whose second stream is large enough for a model's picture of `wanted` size.

    `wanted` is (width, height). The sentence may name a URL, with `${NAME}` for each secret.
    """
    found = {}
    for stream in streams:
        url = stream.keys.get("url")
        if (picture := pictures.get(stream.name)) and isinstance(url, str):
            seen = [ModelPicture(part=(picture.width, picture.height), model=wanted)]
            if text := describe_substream(url, picture, seen):
                found[stream.name] = text
    return found


def describe_picture(picture: Picture | None, substream: str | None) -> Iterator[str]:
    """Yield the comments about a camera that sends `picture`."""
    if picture is not None:
        yield printable(picture)
    if substream is not None:
        yield printable(substream)


def describe_failure(error: str | None) -> Iterator[str]:
    """Yield the comment about a camera that failed."""
    if error is not None:
        yield printable(redact(f"failed: {error}"))


def say(text: str) -> None:
    """Print a line for the user, without credentials and control characters."""
    print(printable(redact(text)))
    sys.stdout.flush()
