"""The kernel that scales pictures on a GPU gives the pixels of the host, by an interpreter of its PTX."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from support.ptx import Memory, run_kernel
from support.scaled_pictures import scale_by_plan

import engines.backends.tensorrt.memory
from engines.arrays import U8
from streamclf.config.picture_area import WHOLE, PictureArea
from streamclf.sources.card_plan import SITINGS, PictureKind, PicturePlan, Siting, plan_picture
from streamclf.sources.orientation import UPRIGHT, Orientation
from streamclf.sources.picture_part import SQUARE, part_of
from streamclf.sources.resize import FrameRenderer, OrientedFrame, Resize

PTX = Path(engines.backends.tensorrt.memory.__file__).with_name("kernels.ptx").read_text()
PLAN, LUMA, CHROMA, OUT = 0x10_0000_0000, 0x20_0000_0000, 0x30_0000_0000, 0x40_0000_0000
TURNED = Orientation(transposed=True, flip_x=False, flip_y=True)


def picture(columns: int, rows: int, form: str = "nv12", colorspace: int = 1, color_range: int = 1) -> av.VideoFrame:
    """Return a picture of noise over a ramp: every level of luma and chroma occurs."""
    frame = av.VideoFrame(columns, rows, form)
    frame.colorspace, frame.color_range = colorspace, color_range  # type: ignore[assignment]
    random = np.random.default_rng(columns + rows)
    for plane in frame.planes:
        data = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)
        if form == "nv12":
            data[:] = random.integers(0, 256, data.shape)
        else:
            data.view(np.uint16)[:] = random.integers(0, 1024, (len(data), plane.line_size // 2)) << 6
    return frame


def on_the_host(frame: av.VideoFrame, target: tuple[int, int], resize: Resize, area: PictureArea, turned: Any) -> U8:
    out = np.full((*target, 3), 99, np.uint8)
    oriented = OrientedFrame(frame, turned, frame.width, frame.height)
    FrameRenderer()(oriented, *target, resize, out, area)
    return out


def planned(
    frame: av.VideoFrame,
    target: tuple[int, int],
    resize: Resize,
    area: PictureArea,
    turned: Orientation,
    siting: Siting,
) -> PicturePlan:
    kind = PictureKind(
        columns=frame.width,
        rows=frame.height,
        bits=8 if frame.format.name == "nv12" else 10,
        colorspace=int(frame.colorspace),
        color_range=int(frame.color_range),
        siting=siting,
    )
    part = part_of(frame.width, frame.height, area, turned, SQUARE)
    return plan_picture(kind, part, target, resize, area.mask)


def planes_of(frame: av.VideoFrame) -> tuple[list[U8], tuple[int, int]]:
    luma, chroma = frame.planes
    return [np.frombuffer(plane, np.uint8) for plane in (luma, chroma)], (luma.line_size, chroma.line_size)


def by_the_kernel(plan: PicturePlan, frame: av.VideoFrame, target: tuple[int, int]) -> U8:
    (luma, chroma), pitches = planes_of(frame)
    out = np.full((*target, 3), 77, np.uint8)
    blocks = {PLAN: plan.words.view(np.uint8), LUMA: luma, CHROMA: chroma, OUT: out.reshape(-1)}
    grid = (-(-plan.columns // 64), plan.rows)
    run_kernel(PTX, "scale_picture", [*blocks, *pitches], Memory(blocks), grid=grid, block=64)
    return out


def by_the_double(plan: PicturePlan, frame: av.VideoFrame, target: tuple[int, int]) -> U8:
    (luma, chroma), pitches = planes_of(frame)
    out = np.full((*target, 3), 77, np.uint8)
    scale_by_plan(plan.words, luma, chroma, pitches, out.reshape(-1))
    return out


MASK = (((0.1, 0.1), (0.4, 0.15), (0.2, 0.5)),)
CASES = [
    ((640, 360), (32, 32), "stretch", WHOLE, UPRIGHT),
    ((640, 360), (32, 32), "crop", WHOLE, UPRIGHT),
    ((640, 480), (33, 44), "crop", WHOLE, UPRIGHT),
    ((640, 480), (32, 47), "stretch", WHOLE, UPRIGHT),  # an odd width: each pixel has a colour of its own
    ((640, 360), (32, 32), "letterbox", WHOLE, UPRIGHT),
    ((322, 182), (32, 32), "stretch", WHOLE, TURNED),
    ((320, 182), (24, 48), "letterbox", WHOLE, TURNED),
    ((320, 240), (32, 32), "stretch", PictureArea(region=(0.1, 0.2, 0.7, 0.9)), UPRIGHT),
    ((320, 240), (24, 40), "crop", PictureArea(region=(0.5, 0.0, 1.0, 0.61), rotate=90, flip="vertical"), UPRIGHT),
    ((320, 240), (32, 32), "stretch", PictureArea(mask=MASK, flip="horizontal"), TURNED),
    ((320, 240), (32, 32), "letterbox", PictureArea(mask=MASK, region=(0, 0, 0.8, 0.5)), UPRIGHT),
    ((48, 40), (64, 64), "stretch", WHOLE, UPRIGHT),  # enlarged
    ((64, 40), (40, 64), "stretch", WHOLE, UPRIGHT),  # unchanged width
    ((321, 241), (32, 32), "stretch", WHOLE, UPRIGHT),
]


@pytest.mark.parametrize(
    ("form", "size", "target", "resize", "area", "turned"),
    [*(("nv12", *case) for case in CASES), *(("p010le", *case) for case in CASES[:4])],
)
def test_the_kernel_gives_the_pixels_of_the_host(
    form: str, size: tuple[int, int], target: tuple[int, int], resize: Resize, area: PictureArea, turned: Orientation
) -> None:
    frame = picture(*size, form)
    plan = planned(frame, target, resize, area, turned, "center")
    found = by_the_kernel(plan, frame, target)
    difference = np.abs(found.astype(int) - on_the_host(frame, target, resize, area, turned))
    assert difference.max() <= 1
    np.testing.assert_array_equal(found, by_the_double(plan, frame, target))


@pytest.mark.parametrize("color_range", [0, 1, 2])
@pytest.mark.parametrize("colorspace", [1, 2, 4, 5, 6, 7, 9])
def test_colours_follow_the_matrix_and_the_range_of_the_video(colorspace: int, color_range: int) -> None:
    frame = picture(160, 120, colorspace=colorspace, color_range=color_range)
    for target in ((24, 24), (24, 25)):
        plan = planned(frame, target, "stretch", WHOLE, UPRIGHT, "center")
        expected = on_the_host(frame, target, "stretch", WHOLE, UPRIGHT)
        assert np.abs(by_the_double(plan, frame, target).astype(int) - expected).max() <= 1


def test_the_tables_give_the_host_pixels_for_the_sizes_of_cameras_and_models() -> None:
    for size in ((1920, 1080), (3840, 2160), (1280, 720), (704, 576), (352, 288)):
        frame = picture(*size)
        for target, resize in (((224, 224), "stretch"), ((112, 112), "crop"), ((160, 160), "letterbox")):
            plan = planned(frame, target, resize, WHOLE, UPRIGHT, "center")  # type: ignore[arg-type]
            expected = on_the_host(frame, target, resize, WHOLE, UPRIGHT)  # type: ignore[arg-type]
            assert np.abs(by_the_double(plan, frame, target).astype(int) - expected).max() <= 1, (size, target)


def test_decoded_video_has_its_chroma_where_its_decoder_says(tmp_path: Path) -> None:
    """H.264 has it at the left. The tables for another place differ by many levels, so the place matters."""
    path = tmp_path / "film.mp4"
    with av.open(str(path), "w") as film:
        stream = film.add_stream("libx264", 25)
        stream.width, stream.height, stream.pix_fmt, stream.options = 320, 240, "yuv420p", {"crf": "1"}
        source = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8).repeat(8, 0).repeat(8, 1)
        film.mux(stream.encode(av.VideoFrame.from_ndarray(source)))
        film.mux(stream.encode())
    with av.open(str(path)) as film:
        decoded = next(film.decode(video=0))
    target = (32, 32)
    frame = decoded.reformat(format="nv12")  # as a device returns it, with the same properties
    errors: dict[Siting, int] = {}
    for siting in SITINGS:
        plan = planned(frame, target, "stretch", WHOLE, UPRIGHT, siting)
        expected = on_the_host(decoded, target, "stretch", WHOLE, UPRIGHT)
        errors[siting] = int(np.abs(by_the_double(plan, frame, target).astype(int) - expected).max())
    assert errors["left"] <= 1
    assert min(errors["center"], errors["topleft"]) > 2


def test_wide_pixels_are_shown_wide() -> None:
    frame = picture(352, 288)
    part = part_of(352, 288, WHOLE, UPRIGHT, Fraction(16, 11))
    kind = PictureKind(columns=352, rows=288, bits=8, colorspace=1, color_range=1, siting="center")
    plan = plan_picture(kind, part, (32, 32), "letterbox")
    out = np.empty((32, 32, 3), np.uint8)
    FrameRenderer()(OrientedFrame(frame, UPRIGHT, 512, 288, Fraction(16, 11)), 32, 32, "letterbox", out)
    assert np.abs(by_the_double(plan, frame, (32, 32)).astype(int) - out).max() <= 1
