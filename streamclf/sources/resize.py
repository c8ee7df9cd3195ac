"""Resize a decoded frame to the model's input. Serving and training both use this code.

The method is area averaging: in swscale for PyAV's frames (it never makes a full-size RGB image), in OpenCV for arrays.
The two agree to 55 dB and better, while swscale's FAST_BILINEAR and OpenCV's INTER_LINEAR alias.
"""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from engines.arrays import U8
from streamclf.config.picture_area import WHOLE, PictureArea
from streamclf.errors import SourceError
from streamclf.sources.card_use import Target, is_on_card, open_card
from streamclf.sources.cropping import FrameCropper
from streamclf.sources.masking import paint_mask
from streamclf.sources.orientation import Orientation
from streamclf.sources.picture_part import SQUARE, PicturePart, part_of

if TYPE_CHECKING:
    import av

Resize = Literal["stretch", "crop", "letterbox"]

MAX_STRETCH = 16
"""`crop` scales the whole image first: one 16 times as elongated as the model's input would need much memory."""
MAX_SCALERS = 64
"""A scaler keeps its tables for one size of the part and one target size: for each region and engine, and the preview.

With fewer than a stream needs, each picture would make the tables again, which takes longer than scaling."""


def scaled_size(source: tuple[int, int], target: tuple[int, int], resize: Resize) -> tuple[int, int]:
    """Return the (height, width) to which a whole image of size `source` is scaled, before it is cropped or padded."""
    (source_h, source_w), (height, width) = source, target
    if resize == "stretch":
        return target
    # Integer arithmetic gives the same size on every machine.
    wider = source_w * height > source_h * width
    if wider == (resize == "letterbox"):
        size = (max(1, (2 * source_h * width + source_w) // (2 * source_w)), width)
    else:
        size = (height, max(1, (2 * source_w * height + source_h) // (2 * source_h)))
    if size[0] > MAX_STRETCH * height or size[1] > MAX_STRETCH * width:
        raise SourceError(
            f"an image of {source_w}x{source_h} is too elongated to crop to {width}x{height} "
            f"(at most {MAX_STRETCH} times); use a model with resize stretch or letterbox"
        )
    return size


class Box(NamedTuple):
    """A part of an image in pixels, which may begin and end within a pixel."""

    top: float
    left: float
    height: float
    width: float


def visible_boxes(source: tuple[int, int], target: tuple[int, int], resize: Resize) -> tuple[Box, Box]:
    """Return the part of an image of size `source` (height, width) that a model sees, and its place in `target`."""
    size = scaled_size(source, target, resize)
    (from_y, to_y), (from_x, to_x) = (shown_ranges(size[i], target[i]) for i in (0, 1))
    scale_y, scale_x = source[0] / size[0], source[1] / size[1]
    seen = Box(
        from_y.start * scale_y,
        from_x.start * scale_x,
        (from_y.stop - from_y.start) * scale_y,
        (from_x.stop - from_x.start) * scale_x,
    )
    return seen, Box(to_y.start, to_x.start, to_y.stop - to_y.start, to_x.stop - to_x.start)


def paste_centred(image: U8, out: U8) -> None:
    """Copy the middle of `image` (h, w, 3) into the middle of `out` (H, W, 3); the rest of `out` becomes black."""
    if image.shape == out.shape:
        out[...] = image
        return
    if image.shape[0] < out.shape[0] or image.shape[1] < out.shape[1]:
        out[...] = 0
    (from_y, to_y), (from_x, to_x) = (shown_ranges(image.shape[i], out.shape[i]) for i in (0, 1))
    out[to_y, to_x] = image[from_y, from_x]


def shown_ranges(have: int, want: int) -> tuple[slice, slice]:
    """Return the range of `have` pixels that `want` pixels show, and its place among these: the middle of both."""
    length, cut, margin = min(have, want), max(0, have - want) // 2, max(0, want - have) // 2
    return slice(cut, cut + length), slice(margin, margin + length)


class OrientedFrame(NamedTuple):
    """A PyAV frame, its orientation, its size in display orientation, and a pixel's width divided by its height.

    `reduction`: the factor by which the decoder has reduced the frame along each axis; the size is that before it.
    """

    frame: av.VideoFrame
    orientation: Orientation
    width: int
    height: int
    pixel_aspect: Fraction = SQUARE
    reduction: int = 1


class FrameRenderer:
    """Render PyAV frames with one scaler for each size of a part and of its target: tables are made only once."""

    def __init__(self) -> None:
        import av
        from av.video.reformatter import VideoReformatter

        self._make = VideoReformatter
        self._cropper = FrameCropper()
        self._downloaded: tuple[Any, Any] = (None, None)
        """The last picture that a GPU could not scale, and its copy in the host's memory."""
        self._scalers: dict[tuple[int, int, int, int], VideoReformatter] = {}
        # By default, PyAV 17 and later starts one thread per core for each scaler.
        self._options: dict[str, Any] = {"threads": 1} if int(av.__version__.split(".")[0]) >= 17 else {}

    def __call__(
        self, frame: OrientedFrame, height: int, width: int, resize: Resize, out: U8, area: PictureArea = WHOLE
    ) -> None:
        """Fill `out` (height, width, 3) uint8 RGB with the part of the picture that `area` selects.

        A picture in a GPU's memory is scaled there if possible.
        """
        if is_on_card(frame.frame):
            card = open_card()
            if card is not None and card.scale_to_host(frame, Target(height, width, resize, area), out):
                return
        self.render_on_host(frame, height, width, resize, out, area)

    def render_on_host(
        self, frame: OrientedFrame, height: int, width: int, resize: Resize, out: U8, area: PictureArea = WHOLE
    ) -> None:
        """Do the same on the host, also for a picture in a GPU's memory, which is copied as a whole."""
        picture = frame.frame
        if is_on_card(picture):
            if self._downloaded[0] is not picture:
                form: Any = picture.sw_format
                self._downloaded = (picture, self._make().reformat(picture, format=form.name))
            picture = self._downloaded[1]
        part = part_of(picture.width, picture.height, area, frame.orientation, frame.pixel_aspect)
        size = scaled_size((part.height, part.width), (height, width), resize)
        turned = size[::-1] if part.orientation.transposed else size
        key = (*turned, part.columns, part.rows)
        scaler = self._scalers.get(key)
        if scaler is None:
            if len(self._scalers) >= MAX_SCALERS:
                self._scalers.clear()
            scaler = self._scalers[key] = self._make()
        rgb = scaler.reformat(
            picture if part.is_whole else self._cropper.crop(picture, part),
            width=turned[1],
            height=turned[0],
            format="rgb24",
            interpolation="AREA",
            **self._options,
        )
        plane = rgb.planes[0]
        array = np.ndarray((*turned, 3), np.uint8, buffer=memoryview(plane), strides=(plane.line_size, 3, 1))
        _finish(array, part, area, out)


def render_bgr(image: U8, height: int, width: int, resize: Resize, out: U8, area: PictureArea = WHOLE) -> None:
    """Fill `out` (height, width, 3) uint8 RGB from OpenCV's (h, w, 3) uint8 BGR."""
    scaled, part = _scale_array(image, height, width, resize, area)
    _finish(scaled[..., ::-1], part, area, out)


def render_rgb(image: U8, height: int, width: int, resize: Resize, out: U8, area: PictureArea = WHOLE) -> None:
    """Fill `out` (height, width, 3) uint8 RGB from (h, w, 3) uint8 RGB."""
    scaled, part = _scale_array(image, height, width, resize, area)
    _finish(scaled, part, area, out)


def _scale_array(image: U8, height: int, width: int, resize: Resize, area: PictureArea) -> tuple[U8, PicturePart]:
    import cv2

    part = part_of(image.shape[1], image.shape[0], area)
    size = scaled_size((part.height, part.width), (height, width), resize)
    turned = size[::-1] if part.orientation.transposed else size
    cropped = image[part.y : part.y + part.rows, part.x : part.x + part.columns]
    if (turned[0] < part.rows) != (turned[1] < part.columns):
        # OpenCV averages areas only where no axis is enlarged; so make the image smaller first.
        smaller = (min(turned[1], part.columns), min(turned[0], part.rows))
        cropped = np.asarray(cv2.resize(cropped, smaller, interpolation=cv2.INTER_AREA), np.uint8)
    return np.asarray(cv2.resize(cropped, turned[::-1], interpolation=cv2.INTER_AREA), np.uint8), part


def _finish(scaled: U8, part: PicturePart, area: PictureArea, out: U8) -> None:
    """Put a scaled part, as decoded, into `out` in display orientation, and paint the mask."""
    shown = part.orientation.apply(scaled)
    paste_centred(shown, out)
    if area.mask:
        size = (shown.shape[0], shown.shape[1])
        paint_mask(
            out, area.mask, part, size, (paste_offset(size[0], out.shape[0]), paste_offset(size[1], out.shape[1]))
        )


def paste_offset(have: int, want: int) -> int:
    """Return the pixel of the target at which a scaled part begins, below 0 if it is cut."""
    return max(0, want - have) // 2 - max(0, have - want) // 2
