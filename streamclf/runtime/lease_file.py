"""Hand the leases of a fleet's streams from a node's agent to the hub of its service, in one small file.

A lease permits one node to publish the events of one stream until it expires. Times are of a clock that includes the
time in which the machine is suspended: a laptop that wakes up after an hour holds no lease any more.
"""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from engines.regular_file import NotRegularFileError, open_regular
from streamclf.errors import EventError
from streamclf.events.types import LeaseToken, StreamName

MAX_LEASE_FILE_BYTES: Final = 4 << 20
IDLE_STREAM: Final = "_idle"
"""A paused stream that a node without streams configures. It never gets a lease, and is not counted."""
MAX_LEASE_S: Final = 600.0
"""A lease that ends later than this is refused: the file is not of this machine, or damaged."""
_CLOCK: Final = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
"""Linux: CLOCK_MONOTONIC stops while the machine is suspended. macOS: CLOCK_MONOTONIC goes on."""
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")

_Nanoseconds = Annotated[int, Field(ge=0, le=2**63 - 1)]


class Lease(NamedTuple):
    """The permission to publish one stream. Times are of `lease_clock_ns`."""

    token: LeaseToken
    """Larger than that of every lease that any node of the fleet was granted before."""
    expires_ns: _Nanoseconds
    granted_ns: _Nanoseconds
    """When this node received the token; a renewal does not change it."""


class _LeaseFile(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True, hide_input_in_errors=True)

    v: Literal[1] = 1
    boot: Annotated[str, Field(max_length=64)]
    leases: dict[StreamName, Lease]


def lease_clock_ns() -> int:
    """Return the nanoseconds since this machine was started, the time of suspension included."""
    return time.clock_gettime_ns(_CLOCK)


@functools.cache
def boot_id() -> str:
    """Return the name of this machine's present run: the clock of another run says nothing about this one."""
    try:
        return _BOOT_ID.read_text("ascii").strip()[:64]
    except OSError:
        return ""


def write_leases(path: Path, leases: Mapping[str, Lease]) -> None:
    """Replace the file of the leases as a whole. A stream that is not in `leases` may not be published any more.

    Raises `OSError`; the file has its old content then.
    """
    content = _LeaseFile(boot=boot_id(), leases=dict(leases)).model_dump_json().encode()
    fresh = path.with_name(path.name + ".new")
    fresh.unlink(missing_ok=True)  # a link or a pipe there must not be written to
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(content)  # no fsync: after a loss of power the clock begins anew, and the file is worth nothing
    fresh.replace(path)


def read_leases(path: Path) -> dict[str, Lease]:
    """Read the file of the leases. Raises `EventError` for a file that is missing, damaged or from before a restart."""
    try:
        with open_regular(path) as file:  # a pipe would block the hub
            content = file.read(MAX_LEASE_FILE_BYTES + 1)
    except NotRegularFileError:
        raise EventError(f"{path}: not a file") from None
    except OSError as error:
        raise EventError(f"{path}: {error.strerror}") from None
    if len(content) > MAX_LEASE_FILE_BYTES:
        raise EventError(f"{path}: more than {MAX_LEASE_FILE_BYTES} bytes")
    try:
        found = _LeaseFile.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(str(part)[:64] for part in first["loc"][:4])
        raise EventError(f"{path}: {where}: {first['msg'][:200]}") from None
    if found.boot != boot_id():
        raise EventError(f"{path}: written before the machine was started")
    return found.leases
