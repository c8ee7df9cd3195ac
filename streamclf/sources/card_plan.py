"""Plan how a GPU scales a decoded picture: the tables of the kernel `scale_picture` (engines/backends/tensorrt).

The tables follow FFmpeg's swscale (libswscale/utils.c, `initFilter`; yuv2rgb.c; output.c), which scales pictures on the
host with the area filter. The kernel repeats its integer arithmetic. So the GPU gives the pixels that the host gives.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from streamclf.config.picture_shapes import Polygon
from streamclf.sources.masking import covered_pixels
from streamclf.sources.picture_part import PicturePart
from streamclf.sources.resize import Resize, paste_offset, scaled_size, shown_ranges

I32 = npt.NDArray[np.int32]
Siting = Literal["left", "center", "topleft"]
"""Where a sample of chroma lies among its four samples of luma. A decoder knows it; PyAV does not report it."""

SITINGS: Final[tuple[Siting, ...]] = ("left", "center", "topleft")
"""The usual ones first: H.264 and H.265 have `left` unless they say otherwise."""
_POSITIONS: Final = {"left": (0, 128), "center": (128, 128), "topleft": (0, 0)}
_FULL_RANGE: Final = 2
"""AVCOL_RANGE_JPEG"""
_HEADER_WORDS: Final = 32
_CUTOFF: Final = 0.002
"""SWS_MAX_REDUCE_CUTOFF: swscale drops weights at both ends that are smaller together."""
_COEFFICIENTS: Final = {
    1: (117489, 138438, 13975, 34925),  # BT.709
    4: (104448, 132798, 24759, 53109),  # FCC
    7: (117579, 136230, 16907, 35559),  # SMPTE 240M
    9: (110013, 140363, 12277, 42626),  # BT.2020
}
"""ff_yuv2rgb_coeffs by AVColorSpace: V to red, U to blue, U to green, V to green."""
_BT601: Final = (104597, 132201, 25675, 53279)
"""The coefficients of all other values, also where the video does not say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureKind:
    """The properties of decoded NV12 (8 bits) or P010 (10 bits) pictures on which the tables depend."""

    columns: int
    rows: int
    bits: Literal[8, 10]
    colorspace: int
    """AVColorSpace."""
    color_range: int
    """AVColorRange."""
    siting: Siting = "left"


@dataclass(frozen=True, slots=True, kw_only=True)
class PicturePlan:
    """The tables, and the threads that the kernel needs: `columns` by `rows`."""

    words: I32
    columns: int
    rows: int


class _Filter(NamedTuple):
    """For each sample of the result the first sample of the picture, and the weights of the samples from there on."""

    first: I32
    weights: I32
    taps: int
    """The number of weights that swscale calculates with; `weights` may have fewer: the others are 0."""


def plan_picture(
    kind: PictureKind,
    part: PicturePart,
    target: tuple[int, int],
    resize: Resize,
    mask: tuple[Polygon, ...] = (),
) -> PicturePlan:
    """Return the tables with which the kernel fills a target (height, width) with RGB, as `FrameRenderer` does.

    Raises `SourceError` for a part that is too elongated for `resize`.
    """
    size = scaled_size((part.height, part.width), target, resize)
    (height, width), transposed = size, part.orientation.transposed
    columns, rows = (height, width) if transposed else (width, height)  # of the scaled part, as decoded
    shown_rows = _places(size[0], target[0], flipped=part.orientation.flip_y)
    shown_columns = _places(size[1], target[1], flipped=part.orientation.flip_x)
    black = (shown_rows < 0)[:, None] | (shown_columns < 0)
    if mask:
        offset = paste_offset(size[0], target[0]), paste_offset(size[1], target[1])
        black = black | covered_pixels(mask, part, size, offset, target)
    along_x, along_y = (shown_rows, shown_columns) if transposed else (shown_columns, shown_rows)
    steps = (3 * target[1], 3) if transposed else (3, 3 * target[1])
    h_pos, v_pos = _POSITIONS[kind.siting]
    each_pixel = columns % 2 == 1  # swscale then calculates the colour of each pixel, not of each pair
    chroma_columns = columns if each_pixel else columns // 2
    chroma_place = 0 if each_pixel else 1
    luma_x = _filter(part.columns, columns, 14, _position(0, 0), _position(0, 0), 4)
    luma_y = _filter(part.rows, rows, 12, _position(0, 0), _position(0, 0), 2)
    chroma_x = _filter(-(-part.columns // 2), chroma_columns, 14, _position(1, h_pos), _position(chroma_place, None), 4)
    chroma_y = _filter(-(-part.rows // 2), rows, 12, _position(1, v_pos), _position(0, None), 2)
    tables = [
        _entries(luma_x, along_x, part.x),
        _entries(luma_y, along_y, part.y),
        _entries(chroma_x, along_x // (chroma_place + 1), part.x // 2),
        _entries(chroma_y, along_y, part.y // 2),
    ]
    colour, colour_header = _colour(kind)
    header = np.zeros(_HEADER_WORDS, np.int32)
    header[:4] = len(along_x), len(along_y), *steps
    header[4:8] = [table.shape[1] - 1 for table in tables]
    at = 4 * _HEADER_WORDS
    for word, table in zip((*range(8, 12), 12), (*tables, colour), strict=True):
        header[word] = at
        at += table.nbytes
    header[13] = at
    header[14:17] = (1, 0, 7) if kind.bits == 8 else (2, 6, kind.bits - 1)
    is_rounded = (luma_y.taps, chroma_y.taps) != (2, 2)  # swscale's function for two rows does not round
    header[17] = (1 << 9 if each_pixel else 1 << 18) if is_rounded else 0
    header[18] = each_pixel
    header[19:27] = colour_header
    painted = np.ascontiguousarray(black.T if transposed else black, np.uint8).ravel()
    painted = np.concatenate([painted, np.zeros(-len(painted) % 4, np.uint8)]).view(np.int32)
    words = np.concatenate([header, *(table.ravel() for table in tables), colour.ravel(), painted])
    return PicturePlan(words=words, columns=len(along_x), rows=len(along_y))


def _places(have: int, want: int, *, flipped: bool) -> I32:
    """Return for each of `want` pixels of the target the pixel of the scaled part that it shows, or -1 for none."""
    source, place = shown_ranges(have, want)
    shown = np.full(want, -1, np.int32)
    shown[place] = np.arange(source.start, source.stop)
    return np.where(shown < 0, -1, have - 1 - shown).astype(np.int32) if flipped else shown


def _entries(found: _Filter, places: I32, offset: int) -> I32:
    """Return (places, 1 + weights): a table of the kernel. Places that show nothing have any entry."""
    chosen = np.maximum(places, 0)
    return np.concatenate([found.first[chosen, None] + np.int32(offset), found.weights[chosen]], axis=1)


def _position(subsampling: int, position: int | None) -> int:
    """Return the place of the first sample, in 1/256 of the distance of samples (swscale's `get_local_pos`)."""
    value = (128 << subsampling) - 128 if position is None else position
    return (value + 128) >> subsampling


@lru_cache(maxsize=256)
def _filter(source: int, target: int, bits: int, source_at: int, target_at: int, alignment: int) -> _Filter:
    """Return the area filter from `source` to `target` samples, whose weights add up to 2**bits."""
    step = ((source << 16) + (target >> 1)) // target
    one = 1 << (54 - min((source // target).bit_length() - 1 if source >= target else 0, 8))
    if abs(step - 0x10000) < 10 and source_at == target_at:
        first, weights = list(range(target)), [[one] for _ in range(target)]
    elif step <= 1 << 16:
        first, weights = _enlarging(target, step, source_at, target_at, one)
    else:
        first, weights = _averaging(source, target, step, source_at, target_at, one)
    taps = _reduce(first, weights, one, alignment)
    for i, row in enumerate(weights):
        first[i] = _move_inside(row, first[i], source)
    scaled = np.array([_normalise(row, 1 << bits) for row in weights], np.int32)
    used = max(1, int(np.flatnonzero(scaled.any(axis=0)).max()) + 1)
    return _Filter(np.array(first, np.int32), scaled[:, :used], taps)


def _enlarging(target: int, step: int, source_at: int, target_at: int, one: int) -> tuple[list[int], list[list[int]]]:
    """Interpolate between two samples."""
    first, weights = [], []
    at = ((target_at * step) >> 8) - ((source_at * 0x8000) >> 7)
    for _ in range(target):
        begin = at >> 16
        first.append(begin)
        weights.append([max(0, one - abs((sample << 16) - at) * (one >> 16)) for sample in (begin, begin + 1)])
        at += step
    return first, weights


def _averaging(
    source: int, target: int, step: int, source_at: int, target_at: int, one: int
) -> tuple[list[int], list[list[int]]]:
    """Average the samples that a sample of the result covers, each with its covered share."""
    taps = max(1, min(1 + (source + target - 1) // target, source - 2))
    first, weights = [], []
    at = ((target_at * step) >> 7) - ((source_at * 0x10000) >> 7)
    for _ in range(target):
        begin = _divide(at - (taps - 2) * (1 << 16), 1 << 17)
        first.append(begin)
        row = []
        for sample in range(begin, begin + taps):
            distance = (abs((sample << 17) - at) << 13) * target // source
            share = (distance - (1 << 29)) * step
            row.append(min(max(0, (1 << 45) - share), 1 << 46) * (one >> 46))
        weights.append(row)
        at += 2 * step
    return first, weights


def _reduce(first: list[int], weights: list[list[int]], one: int, alignment: int) -> int:
    """Drop weights near 0 at both ends, in place. Return the number of weights that swscale then has."""
    taps, least = len(weights[0]), 0
    for i in range(len(first) - 1, -1, -1):
        row, dropped = weights[i], 0
        for _ in range(taps):
            dropped += abs(row[0])
            if dropped > _CUTOFF * one or (i < len(first) - 1 and first[i] >= first[i + 1]):
                break
            row[:] = [*row[1:], 0]
            first[i] += 1
        dropped, used = 0, taps
        while used > 1:
            dropped += abs(row[used - 1])
            if dropped > _CUTOFF * one:
                break
            used -= 1
        least = max(least, used)
    aligned = 1 if least == 1 and alignment == 2 else -(-least // alignment) * alignment
    for row in weights:
        del row[aligned:]
    return aligned


def _move_inside(row: list[int], first: int, source: int) -> int:
    """Give the weights of samples beyond the picture's edge to the sample at the edge; return the first sample."""
    taps = len(row)
    kept: dict[int, int] = {}
    for i, weight in enumerate(row):
        sample = min(max(first + i, 0), source - 1)
        kept[sample] = kept.get(sample, 0) + weight
    first = max(0, min(max(first, 0), source - taps))
    row[:] = [kept.get(sample, 0) for sample in range(first, first + taps)]
    return first


def _normalise(row: list[int], total: int) -> list[int]:
    """Scale weights to the sum `total`, and carry each rounding error to the next weight."""
    unit, error, scaled = (sum(row) + total // 2) // total, 0, []
    for weight in row:
        value = weight + error
        rounded = _divide(value + (unit >> 1 if value >= 0 else -(unit >> 1)), unit)
        error = value - rounded * unit
        scaled.append(rounded)
    return scaled


def _colour(kind: PictureKind) -> tuple[I32, list[int]]:
    """Return the tables (4, 256) of colour, and the words 19 to 26 of the header."""
    full = kind.color_range == _FULL_RANGE
    v_red, u_blue, u_green, v_green = _COEFFICIENTS.get(kind.colorspace, _BT601)
    coefficients = [v_red, u_blue, -u_green, -v_green]
    if full:
        factor, black, begin = 1 << 16, 0, 384
        coefficients = [_divide(value * 224, 255) for value in coefficients]
    else:
        factor, black, begin = (255 << 16) // 219, 16 << 16, 326
    values = np.arange(256, dtype=np.int64)
    steps = [_divide((value << 16) + 0x8000, factor) for value in coefficients]
    tables = np.stack([((values * step) >> 16) - (step >> 9) for step in steps]).astype(np.int32)
    v_red, u_blue, u_green, v_green = ((value + 4) >> 3 for value in coefficients)
    offset = begin * factor - (384 << 16) - black + 0x8000
    return tables, [factor, offset, black >> 7, (factor + 4) >> 3, v_red, v_green, u_green, u_blue]


def _divide(value: int, by: int) -> int:
    """Divide as C does, towards 0."""
    return value // by if value >= 0 else -(-value // by)
