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

    def for_shrink(self, shrink: float) -> dict[str, str]:
        """Return the options where the consumer with the largest picture shrinks the source's by `shrink`, 1 or more.

        An option that makes the decoder return smaller pictures must leave at least that consumer's size.
        """
        return dict(self.decoder)


NO_LOOP_FILTER: Final = FastOptions(decoder={"skip_loop_filter": "all"})
IMAGES: Final = "images"
"""The codec of a folder of images, whose JPEG files OpenCV reduces (`streamclf.sources.image_file`)."""
DECODERS: Final[Mapping[str, FastOptions]] = {
    "h264": NO_LOOP_FILTER,
    "hevc": NO_LOOP_FILTER,
    IMAGES: FastOptions(decoder={}),
}
"""The decoders that have a fast way, by FFmpeg's name."""


@dataclass(frozen=True, slots=True)
class WantedDecoding:
    """How a source is to decode, and by which factor the consumer with the largest picture shrinks its pictures."""

    decoding: Decoding = "exact"
    shrink: float = 1.0

    def options(self, codec: str) -> dict[str, str]:
        """Return the options for the decoder `codec`, by FFmpeg's name; none decode exactly."""
        fast = fast_options(codec) if self.decoding == "fast" else None
        return {} if fast is None else fast.for_shrink(self.shrink)


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
    decoding = resolve(mode, codec=codec, shrink=shrink)
    return WantedDecoding(decoding, max(1.0, shrink)) if decoding == "fast" else EXACT


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
