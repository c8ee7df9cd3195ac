"""Hold a taught model with everything that its bundle and its report show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from engines.bundle import Bundle
from streamclf.config.picture_area import PictureArea
from streamclf.teach.examples import Examples
from streamclf.teach.figures import Figures
from streamclf.teach.held_out import HeldOut
from streamclf.teach.taught_head import TaughtHead


@dataclass(frozen=True, slots=True, kw_only=True)
class Taught:
    """A taught model, with everything that its report shows. `none_label`: None for a model without that label."""

    output: Path
    area: PictureArea
    name: str
    version: str
    base: Bundle
    labels: tuple[str, ...]
    none_label: str | None
    figures: Figures
    held_out: HeldOut
    head: TaughtHead
    thresholds: dict[str, float]
    examples: Examples
    advice: Sequence[str]
    faults: Sequence[tuple[str, str]]
    notes: Sequence[str]
    seconds: dict[str, float]
