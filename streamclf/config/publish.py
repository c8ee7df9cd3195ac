"""Define where events are published and kept, and who may connect."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, field_validator, model_validator

from streamclf.config.section import Section
from streamclf.config.units import MAX_DURATION_S, MAX_SIZE_BYTES, Duration, MemoryLimit, Size
from streamclf.net.endpoints import ENDPOINT


class PublishConfig(Section):
    """The endpoints, the journal and the keys of the service."""

    events: str = Field(
        "tcp://127.0.0.1:5555",
        description="ZeroMQ endpoint of live events (PUB), tcp:// or ipc://. Port * takes a free one.",
    )
    replay: str = Field(
        "tcp://127.0.0.1:5556", description="ZeroMQ endpoint for snapshots and replay (ROUTER), tcp:// or ipc://."
    )
    journal: Path = Field(Path("streamclf.db"), description="Path of the SQLite file in which every event is stored.")
    keep: Duration = Field(
        "7d",
        validate_default=True,
        description="Age after which events are removed from the journal: a number and s, m, h, d or w, at most "
        f"{MAX_DURATION_S // 86400}d.",
    )
    keep_size: Size | None = Field(
        None,
        description="Size of the journal beyond which the oldest events are removed sooner: a number and KB, MB, GB, "
        f"TB, KiB, MiB or GiB, 1MB to {MAX_SIZE_BYTES // 10**12}TB.",
    )
    keys: Path | None = Field(
        None, description="Path of the service's secret key file, made by `streamclf keys`. Needs `allow`."
    )
    allow: Path | None = Field(
        None, description="Path of a directory with the public keys (*.key) that may connect. Needs `keys`."
    )
    leases: Path | None = Field(
        None,
        description="Path of the file with the leases of the streams, which a fleet writes for each of its nodes. "
        "Events of a stream without a valid lease are refused. Do not set it outside a fleet.",
    )
    memory_limit: MemoryLimit = Field(
        "1GB",
        validate_default=True,
        description="Memory of the hub's process beyond which it is restarted, at least 200MB. It needs 50 to 100 MB.",
    )

    @field_validator("events", "replay")
    @classmethod
    def _check_endpoint(cls, value: str) -> str:
        match = ENDPOINT.match(value)
        if not match:
            raise ValueError(f"{value!r}: like tcp://127.0.0.1:5555 or ipc:///run/streamclf/events")
        if match[2] and match[2] != "*" and not 1 <= int(match[2]) <= 65535:
            raise ValueError(f"port {match[2]}: 1 to 65535")
        return value

    @model_validator(mode="after")
    def _check_pairs(self) -> PublishConfig:
        if (self.keys is None) != (self.allow is None):
            raise ValueError("keys and allow go together: the service's own secret, and who may connect")
        if self.events == self.replay and not self.events.endswith(":*"):
            raise ValueError(f"events and replay are both {self.events}; give each its own")
        return self
