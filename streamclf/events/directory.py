"""Define the directory of a fleet: which node publishes which stream, and at which endpoints.

The fleet's controller answers requests for it on one ZeroMQ endpoint (docs/protocol.md), so a subscriber needs no Ray.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Final, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from streamclf.errors import EventError
from streamclf.events.types import CounterName, Epoch, LeaseToken, Offset, Reason, StreamName

MAX_DIRECTORY_BYTES: Final = 8 << 20
MAX_DIRECTORY_NODES: Final = 1024
MAX_DIRECTORY_STREAMS: Final = 20_000
MAX_REQUEST_BYTES: Final = 1024

NodeName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
Revision = Annotated[str, Field(max_length=64)]
NodeState: TypeAlias = Literal["live", "lost", "left"]
"""`live`: it renews its lease. `lost`: it no longer does. `left`: it ended in order, or the fleet no longer uses it."""


class _Wire(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)  # later versions may add keys


class DirectoryNode(_Wire):
    """One node: its state, and where its journal is published and replayed.

    A node keeps its name and its entry when it is lost. Its journal can be read again once it returns.
    """

    name: NodeName
    state: NodeState
    since: datetime
    """When the state began, by the clock of the fleet's head."""
    reason: Reason | None = None
    """Why the node is not live."""
    events: Annotated[str, Field(max_length=512)] | None = None
    """Endpoint of live events, as other machines reach it; None for a node whose service was never ready."""
    replay: Annotated[str, Field(max_length=512)] | None = None
    epoch: Epoch | None = None
    """The node's journal, as of its last report."""
    head: Offset | None = None
    """The newest event in its journal, as of its last report."""
    capacity: Annotated[dict[CounterName, float], Field(max_length=32)] = Field(default_factory=dict)
    """Numbers for people, like `cpu` and `cpu_used`, in the units of the fleet's file."""
    version: Annotated[str, Field(max_length=64)] | None = None
    """The version of streamclf on the node."""


class DirectoryStream(_Wire):
    """One stream: the node that may publish it, and the token of that node's lease."""

    node: NodeName | None = None
    """None while no node has the lease."""
    lease: LeaseToken | None = None
    """Each grant has a larger token than all grants before. An event with a smaller token came too late."""
    since: datetime | None = None
    """When this lease was granted, by the clock of the fleet's head."""
    reason: Reason | None = None
    """Why no node has the lease."""


class DirectoryRequest(_Wire):
    """A request for the directory. `known` is the revision that the subscriber has; empty for none."""

    v: Annotated[int, Field(ge=1, le=1)] = 1
    request: Literal["directory"]
    id: Annotated[str, Field(max_length=64)] = ""
    known: Revision = ""


class Directory(_Wire):
    """The directory. With `unchanged`, it is the one whose revision the request named, and has no nodes or streams."""

    v: Literal[1] = 1
    reply: Literal["directory"] = "directory"
    id: Annotated[str, Field(max_length=64)] = ""
    fleet: Annotated[str, Field(max_length=64)]
    revision: Revision
    """Changes with every change of a node's state, endpoint or epoch, and of a stream's owner; not with `head`."""
    unchanged: bool = False
    time: datetime
    nodes: Annotated[tuple[DirectoryNode, ...], Field(max_length=MAX_DIRECTORY_NODES)] = ()
    streams: Annotated[dict[StreamName, DirectoryStream], Field(max_length=MAX_DIRECTORY_STREAMS)] = Field(
        default_factory=dict
    )


def parse_directory(payload: bytes) -> Directory:
    """Parse the answer of a fleet's controller. Raises `EventError` that names the wrong key."""
    if len(payload) > MAX_DIRECTORY_BYTES:
        raise EventError(f"directory of {len(payload)} bytes: at most {MAX_DIRECTORY_BYTES}")
    try:
        return Directory.model_validate_json(payload)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"][:6])
        raise EventError(f"not a fleet's directory: {where[:200]}: {first['msg'][:300]}") from None
