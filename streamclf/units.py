"""Define the nanoseconds in a second. Every package may import this module; it imports nothing."""

from __future__ import annotations

from typing import Final

NS: Final = 1_000_000_000
"""One second in nanoseconds: `5 * NS` is five seconds."""
