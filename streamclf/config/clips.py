"""Define the section `clips`: films of the actions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

from pydantic import Field, model_validator

from streamclf.config.section import Section
from streamclf.config.units import DURATION_AS_TEXT, MAX_DURATION_S, MAX_SIZE_BYTES, SIZE_AS_TEXT, Duration, Size

MAX_AROUND_S: Final = 60
"""Longest time that a clip shows before or after an action."""


class ClipsConfig(Section):
    """Films of the actions: where they are written, how much they show, and how long they are kept."""

    folder: Path = Field(Path("clips"), description="Path of the directory in which the films are written.")
    before_s: float = Field(
        5.0, ge=0, le=MAX_AROUND_S, description="Seconds that a clip shows before the start of its action."
    )
    after_s: float = Field(
        5.0, ge=0, le=MAX_AROUND_S, description="Seconds that a clip shows after the end of its action."
    )
    longest_s: float = Field(
        60.0, ge=5, le=3600, description="Seconds of the longest film; a longer action is cut into parts."
    )
    keep: Annotated[Duration, DURATION_AS_TEXT] = Field(
        "7d",
        validate_default=True,
        description="Age after which clips are removed, like 7d, unless they are starred: a number and s, m, h, d or "
        f"w, at most {MAX_DURATION_S // 86400}d.",
    )
    keep_size: Annotated[Size, SIZE_AS_TEXT] = Field(
        "20GB",
        validate_default=True,
        description="Bytes of all clips without a star beyond which the oldest are removed sooner: a number and KB, "
        f"MB, GB, TB, KiB, MiB or GiB, 1MB to {MAX_SIZE_BYTES // 10**12}TB.",
    )
    before_size: Annotated[Size, SIZE_AS_TEXT] = Field(
        "16MB",
        validate_default=True,
        description="Bytes of memory in which each stream holds the encoded video of `before_s`. A stream with more "
        "bytes in that time shows less before the start.",
    )

    @model_validator(mode="after")
    def _check_lengths(self) -> ClipsConfig:
        around_s = self.before_s + self.after_s
        if self.longest_s < around_s + 1:
            raise ValueError(
                f"longest_s={self.longest_s:g}: at least {around_s + 1:g}, one second more than before_s and after_s"
            )
        return self
