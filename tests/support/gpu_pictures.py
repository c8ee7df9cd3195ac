"""Check that a GPU scales pictures as the host does, and measure both."""

from __future__ import annotations

import time
from typing import Any, Final

import av
import numpy as np

from engines.backends.tensorrt.interface import Cuda, PictureToScale
from streamclf.sources.card_plan import PictureKind, plan_picture
from streamclf.sources.orientation import UPRIGHT
from streamclf.sources.picture_part import part_of
from streamclf.sources.resize import WHOLE, FrameRenderer, OrientedFrame, Resize

PICTURES: Final[tuple[tuple[str, tuple[int, int], tuple[int, int], Resize], ...]] = (
    ("nv12", (1920, 1080), (224, 224), "stretch"),
    ("nv12", (1920, 1080), (112, 112), "crop"),
    ("nv12", (704, 576), (160, 160), "letterbox"),
    ("nv12", (640, 480), (224, 299), "stretch"),
    ("p010le", (3840, 2160), (224, 224), "stretch"),
)
"""Format, (width, height), target (height, width) and policy."""
LAUNCHES: Final = 200


def noise(form: str, columns: int, rows: int) -> av.VideoFrame:
    """Return a picture of noise, in NV12 or P010."""
    frame, random = av.VideoFrame(columns, rows, form), np.random.default_rng(columns)
    frame.colorspace, frame.color_range = 1, 1  # type: ignore[assignment]  # BT.709, limited
    for plane in frame.planes:
        data = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)
        if form == "nv12":
            data[:] = random.integers(0, 256, data.shape)
        else:
            data.view(np.uint16)[:] = random.integers(0, 1024, (len(data), plane.line_size // 2)) << 6
    return frame


def scaled_pictures(
    cuda: Cuda, form: str, size: tuple[int, int], target: tuple[int, int], resize: Resize, *, launches: int = LAUNCHES
) -> dict[str, Any]:
    """Scale a picture on the GPU and on the host; return the largest difference, and pictures/s of both."""
    frame, out = noise(form, *size), np.empty((*target, 3), np.uint8)
    kind = PictureKind(
        columns=size[0], rows=size[1], bits=8 if form == "nv12" else 10, colorspace=1, color_range=1, siting="center"
    )
    plan = plan_picture(kind, part_of(*size, WHOLE), target, resize)
    stream, event = cuda.stream(), cuda.event()
    result = cuda.pinned(out.shape, np.uint8)
    arrays = [plan.words, *(np.frombuffer(plane, np.uint8) for plane in frame.planes)]
    addresses = []
    for array in arrays:
        pinned, address = cuda.pinned(array.shape, array.dtype), cuda.allocate(array.nbytes)
        pinned[:] = array
        cuda.upload(address, pinned, stream)
        cuda.finish(stream)
        addresses.append(address)
        del pinned
    to = cuda.allocate(out.nbytes)
    luma, chroma = frame.planes
    picture = PictureToScale(
        plan=addresses[0],
        luma=addresses[1],
        chroma=addresses[2],
        luma_pitch=luma.line_size,
        chroma_pitch=chroma.line_size,
        columns=plan.columns,
        rows=plan.rows,
    )
    cuda.follow_default_stream(stream, event)
    cuda.scale_picture(to, picture, stream)
    cuda.download(result, to, stream)
    cuda.finish(stream)
    began = time.perf_counter()
    for _ in range(launches):
        cuda.scale_picture(to, picture, stream)
    cuda.finish(stream)
    gpu_s = (time.perf_counter() - began) / launches
    render = FrameRenderer()
    render(OrientedFrame(frame, UPRIGHT, *size), *target, resize, out)
    began = time.perf_counter()
    render(OrientedFrame(frame, UPRIGHT, *size), *target, resize, out)
    host_s = time.perf_counter() - began
    difference = int(np.abs(result.astype(int) - out).max())
    for address in (*addresses, to):
        cuda.release(address)
    return {
        "scaled": f"{form} {size[0]}x{size[1]} to {target[1]}x{target[0]} {resize}",
        "largest_difference": difference,
        "pictures_per_s": round(1 / gpu_s),
        "host_pictures_per_s": round(1 / host_s),
    }
