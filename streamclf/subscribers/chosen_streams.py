"""Compare the streams that a user has chosen with those of the service."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from streamclf.errors import UsageError
from streamclf.events.types import Heartbeat
from streamclf.net.names import describe_unknown


def refuse_unknown_streams(chosen: Collection[str] | None, heartbeat: Heartbeat) -> None:
    """Raise `UsageError` for the first chosen stream that the service does not have."""
    for _, text in find_unknown_streams(chosen, heartbeat):
        raise UsageError(text)


def find_unknown_streams(chosen: Collection[str] | None, heartbeat: Heartbeat) -> Iterator[tuple[str, str]]:
    """Yield each chosen stream that the service does not have, and a text that names those that it has.

    Such a stream may be a misspelling, or be added later.
    """
    for name in chosen or () if heartbeat.streams is not None else ():
        if name not in (known := heartbeat.streams or ()):
            yield name, describe_unknown("stream", name, known, "the service")
