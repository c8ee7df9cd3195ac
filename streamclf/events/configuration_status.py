"""Define the result of the last reading of the configuration file, which heartbeats carry."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated

from pydantic import ConfigDict, Field

MAX_REASON_CHARS = 2048
"""Errors of a configuration name up to five mistakes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigurationStatus:
    """The version of the file that the service read last, and whether the service applied it.

    `version` identifies the file as it was saved: it changes with each save, and holds nothing of the content.
    `reason` says why the version was refused; the service then continues with the version before.
    """

    __pydantic_config__ = ConfigDict(extra="ignore")
    version: Annotated[str, Field(max_length=128)]
    applied: bool
    reason: Annotated[str, Field(max_length=MAX_REASON_CHARS)] | None = None
    time: datetime
