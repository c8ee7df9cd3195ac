"""Measure what a region, a mask and a rotation cost: `PYTHONPATH=. python tests/benchmarks/regions.py`.

The cases alternate within each round, on frames that are decoded already.
"""

from __future__ import annotations

import statistics
import time

import av
import numpy as np

from streamclf.config.picture_area import WHOLE, PictureArea
from streamclf.sources.orientation import UPRIGHT
from streamclf.sources.resize import FrameRenderer, OrientedFrame, render_bgr

ROUNDS = 60
SIDE = 112
MASK = [[0.0, 0.0, 0.3, 0.1], [[0.5, 0.0], [1.0, 0.0], [1.0, 0.4]]]
CASES = {
    "whole": WHOLE,
    "region, half of each side": PictureArea(region=(0.25, 0.25, 0.75, 0.75)),
    "region, quarter of each side": PictureArea(region=(0.4, 0.4, 0.65, 0.65)),
    "whole, rotated by 90": PictureArea(rotate=90),
    "whole, two masks": PictureArea(mask=MASK),
}


def main() -> None:
    """Print the median time of each case, in microseconds, for PyAV's frames and for OpenCV's arrays."""
    random = np.random.default_rng(1)
    out = np.empty((SIDE, SIDE, 3), np.uint8)
    for height, width in ((720, 1280), (1080, 1920)):
        image = random.integers(0, 256, (height, width, 3), np.uint8)
        frame = av.VideoFrame.from_ndarray(image, "bgr24").reformat(format="yuv420p")
        oriented = OrientedFrame(frame, UPRIGHT, width, height)
        renderers = {name: FrameRenderer() for name in CASES}
        times: dict[tuple[str, str], list[float]] = {}
        for _ in range(ROUNDS):
            for name, area in CASES.items():
                began = time.perf_counter()
                renderers[name](oriented, SIDE, SIDE, "stretch", out, area)
                middle = time.perf_counter()
                render_bgr(image, SIDE, SIDE, "stretch", out, area)
                times.setdefault((name, "PyAV"), []).append(middle - began)
                times.setdefault((name, "array"), []).append(time.perf_counter() - middle)
        for name in CASES:
            figures = [1e6 * statistics.median(times[name, kind]) for kind in ("PyAV", "array")]
            print(f"{width}x{height}  {name:30}  PyAV {figures[0]:6.0f} us   array {figures[1]:6.0f} us")


if __name__ == "__main__":
    main()
