"""Regions, masks, rotation and mirroring: the same pixels as those of a film that was cut and turned beforehand."""

from __future__ import annotations

import itertools
import shutil
import subprocess
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from support.clips import draw, read_number, write_clip

from engines.arrays import U8
from streamclf.config.picture_area import WHOLE, PictureArea
from streamclf.config.stream import StreamConfig
from streamclf.sources import Source, open_source
from streamclf.sources.frame import Frame
from streamclf.sources.masking import covered_pixels
from streamclf.sources.orientation import UPRIGHT, Orientation
from streamclf.sources.picture_part import RegionTooSmallError, part_of
from streamclf.sources.resize import FrameRenderer, OrientedFrame, Resize, render_bgr, render_rgb
from streamclf.windows.chunks import read_chunks

REGION = (0.21, 0.13, 0.8, 0.9)
SIZES: list[tuple[int, int, Resize]] = [(112, 112, "stretch"), (300, 96, "letterbox"), (40, 90, "crop")]


def open_film(path: Path) -> Source:
    return open_source(StreamConfig(url=str(path), pace="fast"))


def noise(height: int, width: int, seed: int = 1) -> U8:
    """Return (height, width, 3) uint8: coarse random colours with fine noise."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 200, (height // 8 + 1, width // 8 + 1, 3), np.uint8)
    image = np.kron(coarse, np.ones((8, 8, 1), np.uint8))[:height, :width]
    return image + random.integers(0, 50, image.shape, np.uint8)


def picture(
    image: U8, pixel_format: str = "yuv420p", orientation: Orientation = UPRIGHT, aspect: Fraction = Fraction(1)
) -> OrientedFrame:
    frame = av.VideoFrame.from_ndarray(image, "rgb24").reformat(format=pixel_format)
    width, height = max(1, round(frame.width * aspect)), frame.height
    if orientation.transposed:
        width, height = height, width
    return OrientedFrame(frame, orientation, width, height, aspect)


def cut(image: OrientedFrame, left: int, top: int, width: int, height: int) -> OrientedFrame:
    """Copy a part of a planar frame, plane by plane."""
    planes = []
    for plane in image.frame.planes:
        step_x, step_y = (-(-image.frame.width // plane.width), -(-image.frame.height // plane.height))
        rows = np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)
        x, y = left // step_x, top // step_y
        planes.append(rows[y : y + -(-height // step_y), x : x + -(-width // step_x)])
    part = av.VideoFrame(width, height, image.frame.format.name)
    for plane, pixels in zip(part.planes, planes, strict=True):
        padded = np.zeros((plane.height, plane.line_size), np.uint8)
        padded[:, : plane.width] = pixels
        plane.update(padded.tobytes())
    part.colorspace, part.color_range = image.frame.colorspace, image.frame.color_range
    return OrientedFrame(part, UPRIGHT, width, height)


def render(image: OrientedFrame, height: int, width: int, resize: Resize = "stretch", area: PictureArea = WHOLE) -> U8:
    out = np.empty((height, width, 3), np.uint8)
    FrameRenderer()(image, height, width, resize, out, area)
    return out


@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuvj420p", "yuv422p", "yuv444p", "gray"])
@pytest.mark.parametrize(("height", "width"), [(180, 320), (178, 322), (179, 321)])
def test_a_region_shows_the_pixels_of_a_cropped_picture(pixel_format: str, height: int, width: int) -> None:
    image = picture(noise(height, width), pixel_format)
    image.frame.colorspace, image.frame.color_range = 1, 2
    part = part_of(width, height, PictureArea(region=REGION))
    assert (part.x % 2, part.y % 2, part.columns % 2, part.rows % 2) == (0, 0, 0, 0)
    expected = cut(image, part.x, part.y, part.columns, part.rows)
    for size in SIZES:
        assert (render(image, *size, PictureArea(region=REGION)) == render(expected, *size)).all(), size


@pytest.mark.parametrize("pixel_format", ["nv12", "yuyv422", "yuv420p10le", "bgr24", "rgba", "yuv411p"])
def test_other_pixel_formats_are_cropped_too(pixel_format: str) -> None:
    image = picture(draw(5, 320, 180), pixel_format)
    part = part_of(320, 180, PictureArea(region=REGION))
    got = render(image, part.rows, part.columns, area=PictureArea(region=REGION)).astype(int)
    whole = render(image, 180, 320).astype(int)[part.y : part.y + part.rows, part.x : part.x + part.columns]
    assert np.abs(got - whole)[2:-2, 2:-2].mean() < 3


@pytest.mark.parametrize("size", [(300, 40), (15, 500)])
def test_an_array_that_is_enlarged_along_one_axis_equals_the_frame_of_a_film(size: tuple[int, int]) -> None:
    """OpenCV's area method does not average at all where one axis is enlarged."""
    image = noise(120, 320)
    out = np.empty((*size, 3), np.uint8)
    render_rgb(image, *size, "stretch", out)
    expected = render(picture(image, "rgb24"), *size).astype(int)
    assert np.abs(out.astype(int) - expected).mean() < 5


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="needs the ffmpeg command")
def test_chunks_of_a_region_are_those_of_a_film_that_ffmpeg_cropped(tmp_path: Path) -> None:
    whole, cropped = tmp_path / "whole.mkv", tmp_path / "cropped.mkv"
    lossless = ["-c:v", "ffv1", "-pix_fmt", "yuv420p"]
    pattern = ["-f", "lavfi", "-i", "testsrc2=size=322x242:rate=10:duration=0.8,noise=alls=30:allf=t"]
    ffmpeg = ["ffmpeg", "-v", "error"]
    subprocess.run([*ffmpeg, *pattern, *lossless, str(whole)], check=True, timeout=60)
    # 0.3 * 322 = 96.6 -> 96; 0.1 * 242 = 24.2 -> 24; 0.75 * 322 = 241.5 -> 242; 1.0 * 242 = 242
    crop = ["-vf", "crop=w=146:h=218:x=96:y=24"]
    subprocess.run([*ffmpeg, "-i", str(whole), *crop, *lossless, str(cropped)], check=True, timeout=60)
    area = PictureArea(region=(0.3, 0.1, 0.75, 1))
    for resize in ("stretch", "crop", "letterbox"):
        with open_film(whole) as source, open_film(cropped) as expected:
            options = {"fps": 10.0, "frames_per_chunk": 2, "height": 64, "width": 96, "resize": resize}
            got = [pixels for _, pixels in read_chunks(source, **options, area=area)]  # type: ignore[arg-type]
            wanted = [pixels for _, pixels in read_chunks(expected, **options)]  # type: ignore[arg-type]
        assert len(got) == len(wanted) >= 3
        assert (np.stack(got) == np.stack(wanted)).all()


ROTATIONS = list(itertools.product((0, 90, 180, 270), (None, "horizontal", "vertical")))


def turned(image: U8, rotate: int, flip: str | None) -> U8:
    image = np.rot90(image, -rotate // 90)
    return image[:, ::-1] if flip == "horizontal" else image[::-1] if flip == "vertical" else image


@pytest.mark.parametrize(("rotate", "flip"), ROTATIONS)
def test_rotation_comes_first_then_flip_then_region(rotate: int, flip: str | None) -> None:
    image = draw(5, 320, 180)
    area = PictureArea(rotate=rotate, flip=flip, region=REGION)  # type: ignore[arg-type]
    beforehand = np.ascontiguousarray(turned(image, rotate, flip))
    for size in SIZES:
        expected = np.empty((*size[:2], 3), np.uint8)
        render_rgb(beforehand, *size, expected, PictureArea(region=REGION))
        got = np.empty_like(expected)
        render_rgb(image, *size, got, area)
        assert np.abs(got.astype(int) - expected).max() <= 1, "an array"
        render_bgr(np.ascontiguousarray(image[..., ::-1]), *size, got, area)
        assert np.abs(got.astype(int) - expected).max() <= 1, "OpenCV's colours"
        assert np.abs(render(picture(image, "yuv444p"), *size, area).astype(int) - expected).mean() < 2.5, "a film"


@pytest.mark.parametrize("camera", list(itertools.product((False, True), repeat=3)))
@pytest.mark.parametrize(("rotate", "flip"), ROTATIONS)
def test_the_camera_s_own_orientation_comes_first(
    camera: tuple[bool, bool, bool], rotate: int, flip: str | None
) -> None:
    image, orientation = draw(6, 320, 180), Orientation(*camera)
    area = PictureArea(rotate=rotate, flip=flip, region=(0, 0.25, 0.5, 1))  # type: ignore[arg-type]
    shown = turned(orientation.apply(image), rotate, flip)
    height, width = shown.shape[0] * 3 // 4 // 2 * 2, shown.shape[1] // 2
    got = render(picture(image, "yuv444p", orientation), height, width, area=area)
    assert np.abs(got.astype(int) - shown[-height:, :width]).mean() < 4


def test_the_pixel_aspect_of_a_region_is_that_of_a_cropped_film() -> None:
    image = noise(180, 160)
    area = PictureArea(region=(0.25, 0, 0.75, 1))
    got = render(picture(image, aspect=Fraction(2)), 180, 180, "letterbox", area)
    expected = render(picture(image[:, 40:120], aspect=Fraction(2)), 180, 180, "letterbox")
    assert (got == expected).all()
    assert not got[:, :9].any()


def test_the_size_of_the_picture_may_change() -> None:
    renderer, out = FrameRenderer(), np.empty((180, 320, 3), np.uint8)
    for number, (height, width) in enumerate([(360, 640), (180, 320), (720, 1280), (360, 640), (540, 960), (90, 160)]):
        image = draw(number, width, height)
        renderer(picture(image), 180, 320, "stretch", out, PictureArea(region=(0, 0, 1, 1)))
        assert read_number(out) == number
        renderer(picture(image), 180, 320, "stretch", out, PictureArea(region=(0.5, 0, 1, 1)))
        assert np.abs(out[:, ::2].astype(int)[:, :160] - render(picture(image), 180, 320)[:, 160:]).mean() < 12


def test_many_regions_of_a_stream_make_their_tables_once() -> None:
    """With one scaler for a target size, each region would make the tables anew for each picture: ten times slower."""
    renderer, out, made = FrameRenderer(), np.empty((32, 32, 3), np.uint8), []
    make = renderer._make

    def count() -> object:
        made.append(1)
        return make()

    renderer._make = count  # type: ignore[assignment]
    frame = picture(noise(360, 640))
    covered_pixels.cache_clear()
    for _ in range(3):
        for number in range(16):
            area = PictureArea(region=(0, 0, 0.3 + 0.04 * number, 0.9), mask=[[0, 0, 0.2, 0.2]])
            for side in (32, 24):
                renderer(frame, side, side, "stretch", out[:side, :side], area)
    assert len(made) == 2 * len(renderer._cropper._graphs) == 32
    assert covered_pixels.cache_info().misses == 32


def test_a_region_thinner_than_16_pixels_is_refused_with_its_size() -> None:
    area = PictureArea(region=(0.1, 0.1, 0.14, 0.9), rotate=90)
    with pytest.raises(
        RegionTooSmallError, match=r"region \[0.1, 0.1, 0.14, 0.9\] is 8x256 pixels .* 180x320: at leas"
    ):
        render(picture(noise(180, 320)), 64, 64, area=area)
    render(picture(noise(480, 640)), 64, 64, area=area)
    with pytest.raises(RegionTooSmallError):
        render_rgb(noise(12, 12), 8, 8, "stretch", np.empty((8, 8, 3), np.uint8), PictureArea(region=(0, 0, 1, 1)))


MASK = ([0.3, 0.2, 0.5, 0.55], [[0.7, 0.4], [0.95, 0.6], [0.62, 0.93]])


def polygon_pixels(height: int, width: int, area: PictureArea) -> np.ndarray:
    """Return (height, width) booleans: the pixels of a picture that the mask touches, by many points in each."""
    hit = np.zeros((height, width), bool)
    for dx, dy in itertools.product(np.linspace(0, 1, 9), repeat=2):
        x, y = (np.arange(width) + dx) / width, ((np.arange(height) + dy) / height)[:, None]
        for polygon in area.mask:
            inside = np.zeros((height, width), bool)
            for (x0, y0), (x1, y1) in zip(polygon, (*polygon[1:], polygon[0]), strict=True):
                if y0 != y1:
                    inside ^= ((y0 > y) != (y1 > y)) & (x < x0 + (y - y0) * (x1 - x0) / (y1 - y0))
            hit |= inside
    return hit


CASES = [
    (height, width, rotate, flip, region, pixel_format)
    for (height, width), (rotate, flip) in zip([(180, 320), (179, 321), (360, 640)], ROTATIONS[::5], strict=False)
    for region in (None, (0.11, 0.07, 0.83, 0.96), (0.4, 0.4, 0.7, 0.8))
    for pixel_format in ("yuv420p", "yuv411p", "rgb24")
]


@pytest.mark.parametrize(("height", "width", "rotate", "flip", "region", "pixel_format"), CASES)
def test_no_content_of_a_masked_pixel_remains(
    height: int, width: int, rotate: int, flip: str | None, region: tuple[float, ...] | None, pixel_format: str
) -> None:
    area = PictureArea(rotate=rotate, flip=flip, region=region, mask=MASK)  # type: ignore[arg-type]
    one, other = noise(height, width, 1), noise(height, width, 1)
    shown = turned(other, rotate, flip)  # a view
    secret = polygon_pixels(*shown.shape[:2], area)
    shown[secret] = noise(*shown.shape[:2], 2)[secret]
    for size in [*SIZES, (31, 500, "stretch"), (700, 700, "stretch")]:
        first = render(picture(one, pixel_format), *size, area)  # type: ignore[arg-type]
        second = render(picture(other, pixel_format), *size, area)  # type: ignore[arg-type]
        assert (first == second).all(), size
        plain = replace(area, mask=())
        unmasked = render(picture(one, pixel_format), *size, plain)  # type: ignore[arg-type]
        kept = first.any(axis=2) | ~unmasked.any(axis=2)
        assert kept.mean() > 0.3, f"{size}: the mask takes more than it has to"
        assert (first[kept] == unmasked[kept]).all(), "the rest is as it was"


def test_a_mask_is_black_and_barely_larger_than_configured() -> None:
    area = PictureArea(mask=[[0.25, 0.5, 0.5, 1]])
    white = np.full((720, 1280, 3), 255, np.uint8)
    got = render(picture(white, "rgb24"), 72, 128, area=area)
    assert not got[36:, 32:64].any()
    assert (got[:34] == 255).all()
    assert (got[:, :30] == 255).all()
    assert (got[:, 66:] == 255).all()
    with pytest.raises(ValueError, match="read-only"):
        covered_pixels(area.mask, part_of(1280, 720, area), (72, 128), (0, 0), (72, 128))[0] = True


def test_a_frame_renders_its_area_and_a_chunk_builder_may_change_it(tmp_path: Path) -> None:
    with open_film(write_clip(tmp_path / "film.mp4", frames=4)) as source:
        frames: list[Frame] = list(source)
    area = PictureArea(rotate=180, mask=[[0, 0, 0.1, 0.1]])
    got = frames[3].to_rgb(180, 320, area=area)
    assert not got[:18, :32].any()
    assert read_number(np.ascontiguousarray(np.rot90(got, 2))) == 3
