"""Decode a film on a GPU as a capture process does: `python -m support.gpu_decoding FILM SECONDS [--double]`.

It prints one line of JSON. With `--double`, the CPU decodes, and the frames are moved to the driver of cuda_driver.c.
"""

from __future__ import annotations

import itertools
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import av
import numpy as np

from engines.arrays import U8
from streamclf.sources.card import enable
from streamclf.sources.card_use import is_on_card, pictures_scaled
from streamclf.sources.hw_decode import buffer_options, decoder_options
from streamclf.sources.orientation import UPRIGHT
from streamclf.sources.resize import FrameRenderer, OrientedFrame

SIZE: Final = (224, 224)
SAMPLED: Final = 3
"""Every third frame of 25 per second: 8 per second."""
COMPARED: Final = 24
"""Frames of the beginning that the CPU decodes and scales, too."""


def frames_of(film: Path, *, on_gpu: bool) -> Iterator[av.VideoFrame]:
    """Iterate over the frames of a film once."""
    with av.open(str(film), **(decoder_options("cuda") if on_gpu else {})) as container:
        stream = container.streams.video[0]
        if on_gpu:
            stream.codec_context.options = buffer_options("cuda")
        yield from container.decode(stream)


def scaled(render: FrameRenderer, frame: av.VideoFrame) -> U8:
    """Return a frame as a model sees it."""
    out = np.empty((*SIZE, 3), np.uint8)
    render(OrientedFrame(frame, UPRIGHT, frame.width, frame.height), *SIZE, "stretch", out)
    return out


def decode(film: Path, seconds: float, *, on_double: bool) -> dict[str, Any]:
    """Compare the first pictures with those of the CPU; then decode and scale the film for so many seconds."""

    def frames() -> Iterator[av.VideoFrame]:
        if not on_double:
            yield from frames_of(film, on_gpu=True)
            return
        from support.card_frames import to_card

        enable()
        for frame in frames_of(film, on_gpu=False):
            yield to_card(frame)

    def expected() -> Iterator[av.VideoFrame]:
        for frame in frames_of(film, on_gpu=False):
            yield _without_siting(frame) if on_double else frame

    on_gpu, on_cpu = FrameRenderer(), FrameRenderer()
    differences = [
        int(np.abs(scaled(on_gpu, one).astype(int) - scaled(on_cpu, other)).max())
        for one, other in itertools.islice(zip(frames(), expected(), strict=False), COMPARED)
    ]
    before, began, count, sampled, on_card = pictures_scaled(), time.monotonic(), 0, 0, 0
    while time.monotonic() - began < seconds:
        for frame in frames():
            count += 1
            if count % SAMPLED == 0:
                sampled += 1
                on_card += is_on_card(frame)
                scaled(on_gpu, frame)
            if time.monotonic() - began >= seconds:
                break
    took_s = time.monotonic() - began
    return {
        "largest_difference": max(differences),
        "frames_per_s": count / took_s,
        "sampled": sampled,
        "decoded_on_gpu": on_card,
        "scaled_on_gpu": pictures_scaled() - before,
    }


def _without_siting(frame: av.VideoFrame) -> av.VideoFrame:
    """Return a copy that does not say where its chroma is: PyAV cannot give the double's frames this property."""
    copy = av.VideoFrame.from_ndarray(frame.reformat(format="nv12").to_ndarray(), format="nv12")
    copy.colorspace, copy.color_range = frame.colorspace, frame.color_range
    return copy


if __name__ == "__main__":
    film, seconds, *double = sys.argv[1:]
    print(json.dumps(decode(Path(film), float(seconds), on_double=bool(double))), flush=True)
    sys.stdin.read()  # until all are measured: the parent asks how much memory the contexts take
