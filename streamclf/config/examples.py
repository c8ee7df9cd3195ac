"""Define the section `examples`: stretches of streams that are kept to teach models."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

from pydantic import Field

from streamclf.config.section import Section
from streamclf.config.units import DURATION_AS_TEXT, MAX_DURATION_S, MAX_SIZE_BYTES, SIZE_AS_TEXT, Duration, Size

MAX_LAST_S: Final = 600
MAX_UNCERTAIN: Final = 200


class ExamplesConfig(Section):
    """Example films for `streamclf teach`: where they are kept, and how much of each stream can still be saved."""

    folder: Path = Field(
        Path("examples"), description="Path of the directory with the examples: NAME/LABEL/*.mp4 for each model."
    )
    models: Path = Field(
        Path("models"), description="Path of the directory in which the page writes the models that it has taught."
    )
    last_s: float = Field(
        60.0,
        ge=5,
        le=MAX_LAST_S,
        description="Seconds of encoded video that each stream holds in memory, so that they can be saved afterwards.",
    )
    last_size: Annotated[Size, SIZE_AS_TEXT] = Field(
        "64MB",
        validate_default=True,
        description="Bytes of memory in which each stream holds the video of `last_s`. A stream with more bytes in "
        "that time holds less.",
    )
    keep_size: Annotated[Size, SIZE_AS_TEXT] = Field(
        "10GB",
        validate_default=True,
        description="Bytes of all examples beyond which no more are saved. Examples with a label are never removed "
        f"automatically. A number and KB, MB, GB, TB, KiB, MiB or GiB, 1MB to {MAX_SIZE_BYTES // 10**12}TB.",
    )
    uncertain: int = Field(
        0,
        ge=0,
        le=MAX_UNCERTAIN,
        description="Least certain moments of each stream that the page keeps each day, as examples without a label. 0 "
        "keeps none.",
    )
    keep_uncertain: Annotated[Duration, DURATION_AS_TEXT] = Field(
        "14d",
        validate_default=True,
        description="Age after which examples without a label are removed, like 14d: a number and s, m, h, d or w, at "
        f"most {MAX_DURATION_S // 86400}d.",
    )

    @property
    def for_capture(self) -> ExamplesConfig:
        """The keys that a capture process uses; the others have their defaults, so that they need no restart of it."""
        defaults = ExamplesConfig()
        return self.model_copy(
            update={key: getattr(defaults, key) for key in ("models", "uncertain", "keep_uncertain")}
        )
