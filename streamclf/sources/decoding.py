"""Choose how exactly video is decoded: as its standard says, or faster, for models that see a small picture."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from streamclf.config.source_settings import DecodeMode
from streamclf.sources.picture_part import part_of
from streamclf.sources.resize import Resize, scaled_size

if TYPE_CHECKING:
    from engines.bundle import ModelSpec
    from streamclf.config.picture_area import PictureArea

Decoding: TypeAlias = Literal["exact", "fast"]
"""How frames are decoded: `DecodeMode` without `auto`."""

MIN_SHRINK: Final = 2.0
"""`auto` decodes fast where every view shrinks the picture by at least this factor along each axis."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FastOptions:
    """The options with which one of FFmpeg's decoders works faster, and less exactly."""

    decoder: Mapping[str, str]
    """Options by name, as PyAV's `CodecContext.options` takes them."""
    reduction: int = 1
    """The factor by which these options make the decoder return smaller pictures, along each axis."""

    def for_shrink(self, shrink: float, size: tuple[int, int]) -> dict[str, str]:
        """Return the options where the consumer with the largest picture shrinks one of `size` by `shrink`, 1 or more.

        The decoder does not return smaller pictures than that consumer's. The factor must divide the sides of all
        planes: otherwise the decoder would fill the last column or row up, and move the content.
        """
        is_divided = all(side and side % (2 * self.reduction) == 0 for side in size)  # colour may have half the size
        return dict(self.decoder) if self.reduction == 1 or (self.reduction <= shrink and is_divided) else {}


NO_LOOP_FILTER: Final = FastOptions(decoder={"skip_loop_filter": "all"})
QUARTER_SIZE: Final = FastOptions(decoder={"lowres": "2"}, reduction=4)
"""Blocks of 8x8 pixels are transformed to 2x2. To 4x4 costs as much as to 8x8, and to 1x1 hardly less than to 2x2."""
IMAGES: Final = "images"
"""The codec of a folder of images, whose JPEG files OpenCV reduces (`streamclf.sources.image_file`)."""
DECODERS: Final[Mapping[str, FastOptions]] = {
    "h264": NO_LOOP_FILTER,
    "hevc": NO_LOOP_FILTER,
    "mjpeg": QUARTER_SIZE,
    IMAGES: FastOptions(decoder={}),
}
"""The decoders that have a fast way, by FFmpeg's name."""


@dataclass(frozen=True, slots=True)
class WantedDecoding:
    """How a source is to decode, and by which factor the consumer with the largest picture shrinks its pictures."""

    decoding: Decoding = "exact"
    shrink: float = 1.0

    def options(self, codec: str, size: tuple[int, int] = (0, 0)) -> dict[str, str]:
        """Return the options for the decoder `codec`, by FFmpeg's name; none decode exactly.

        `size` is the (width, height) of its video, as far as it is known.
        """
        fast = fast_options(codec) if self.decoding == "fast" else None
        return {} if fast is None else fast.for_shrink(self.shrink, size)


EXACT: Final = WantedDecoding()


def fast_options(codec: str) -> FastOptions | None:
    """Return the options of the decoder `codec`, by FFmpeg's name; None if it can only decode exactly."""
    return DECODERS.get(codec)


def mode_for_models(mode: DecodeMode, specs: Iterable[ModelSpec]) -> DecodeMode:
    """Return the mode of a stream that these models classify: a bundle may say that `auto` has to decode exactly."""
    return "exact" if mode == "auto" and any(spec.decode == "exact" for spec in specs) else mode


def shrink_factor(part: tuple[int, int], target: tuple[int, int], resize: Resize) -> float:
    """Return by which factor a part of a picture is shrunk for a model, along the axis where it is shrunk less.

    `part` and `target` are (height, width). Raises `SourceError` for a part that is too elongated for `crop`.
    """
    size = scaled_size(part, target, resize)
    return min(part[0] / size[0], part[1] / size[1])


def film_decoding(
    mode: DecodeMode,
    codec: str,
    size: tuple[int, int],
    views: Iterable[tuple[int, int, Resize]],
    area: PictureArea,
) -> WantedDecoding:
    """Return how a film is to be decoded for models of these (height, width, resize), before its first frame.

    `size` is the film's (width, height); (0, 0) if it is not known. `area` is the part of it that the models see.
    Raises `SourceError` for a part that cannot be scaled.
    """
    if not all(size):
        return WantedDecoding("fast") if mode == "fast" else EXACT
    part = part_of(*size, area)
    shrink = min(shrink_factor((part.height, part.width), (height, width), how) for height, width, how in views)
    return wanted_decoding(resolve(mode, codec=codec, shrink=shrink), shrink, (area,))


def wanted_decoding(decoding: Decoding, shrink: float, areas: Iterable[PictureArea]) -> WantedDecoding:
    """Return how to decode for consumers that see `areas` of the picture, and shrink it by at least `shrink`."""
    if decoding == "exact":
        return EXACT
    # Regions and masks are rounded to pixels of the decoded picture: in a smaller one they would cover other parts.
    has_parts = any(area.region or area.mask for area in areas)
    return WantedDecoding("fast", 1.0 if has_parts else max(1.0, shrink))


def resolve(mode: DecodeMode, *, codec: str, shrink: float, is_watched: bool = False) -> Decoding:
    """Return how a stream is to be decoded.

    `shrink`: the least factor by which a view of the stream shrinks the source's picture (`shrink_factor`); 0 if that
    is not known yet. `is_watched`: whether something shows a picture larger than the models'.
    """
    if mode == "exact" or fast_options(codec) is None:
        return "exact"
    if mode == "fast":
        return "fast"
    return "fast" if shrink >= MIN_SHRINK and not is_watched else "exact"
