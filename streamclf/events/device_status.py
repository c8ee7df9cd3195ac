"""Define the status of a GPU, which heartbeats carry for each GPU that the configuration lists."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final, Literal, TypeAlias

from pydantic import ConfigDict, Field

MAX_DEVICES: Final = 64
"""GPUs that one heartbeat lists."""

DeviceState: TypeAlias = Literal["starting", "serving", "lost"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceStatus:
    """The state of one GPU, and how much it has to do.

    `lost`: a classifier process on it has ended by itself, for `reason`, or cannot start. `views` counts the streams
    and regions that it classifies. `load` is the share of the time that its classifiers need, above 1 if they cannot
    keep up; None before they have measured it.
    """

    __pydantic_config__ = ConfigDict(extra="ignore", allow_inf_nan=False)
    state: DeviceState
    reason: Annotated[str, Field(max_length=512)] | None = None
    views: Annotated[int, Field(ge=0, le=2**31)] = 0
    load: Annotated[float, Field(ge=0, le=1e6)] | None = None
