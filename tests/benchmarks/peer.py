"""What all peers share: their job, cameras read by threads, and how they tell of predictions.

A peer is a module run as a process: one line of JSON on its standard input, a `Job`; on its standard output `{}` once
it is ready, then for each prediction `[stream, picture, monotonic ns]`, `picture` being the number of the last picture
in its window, by which the comparison counts latency as it does for streamclf. It ends with its input.
"""

from __future__ import annotations

import json
import math
import os
import queue
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from engines.arrays import U8


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What a peer is told."""

    bundle: str
    urls: list[str]
    fps: float
    hop: int
    spec: dict[str, Any]
    precision: str = "fp32"
    threads: int = 0
    """Of inference; 0: what its library takes."""

    @property
    def frames(self) -> int:
        """Frames in a window."""
        return int(self.spec["chunks"] * self.spec["frames_per_chunk"])

    @property
    def every(self) -> int:
        """Sampled frames from one prediction to the next."""
        return int(self.hop * self.spec["frames_per_chunk"])


class Camera(Protocol):
    """Pictures of one stream, each with its number: media time times the camera's rate."""

    def __call__(self, url: str, fps: float) -> Iterator[tuple[int, Callable[[int, int], U8]]]:
        """(number, render); `render(height, width)` is the picture, uint8 RGB."""


def opencv(url: str, fps: float) -> Iterator[tuple[int, Callable[[int, int], U8]]]:
    """`cv2.VideoCapture` as tutorials use it: every picture is decoded to full-size BGR, wanted ones are resized."""
    import cv2

    os.environ.setdefault("OPENCV_FFMPEG_CAPTURE_OPTIONS", "rtsp_transport;tcp")
    capture = cv2.VideoCapture(url, cv2.CAP_FFMPEG)
    first = None
    while True:
        read, picture = capture.read()
        if not read:
            return
        at_ms = capture.get(cv2.CAP_PROP_POS_MSEC)
        first = at_ms if first is None else first

        def render(height: int, width: int, picture: Any = picture) -> U8:
            return np.asarray(cv2.cvtColor(cv2.resize(picture, (width, height)), cv2.COLOR_BGR2RGB), np.uint8)

        yield round((at_ms - first) * fps / 1000), render


def pyav(url: str, fps: float) -> Iterator[tuple[int, Callable[[int, int], U8]]]:
    """PyAV at its quickest: low delay, one thread, decoded straight to the model's size."""
    import av
    from av.video.reformatter import VideoReformatter

    options = {"rtsp_transport": "tcp", "probesize": "32", "analyzeduration": "0", "fpsprobesize": "0"}
    container = av.open(url, options=options, timeout=(120, 10))
    stream = container.streams.video[0]
    stream.codec_context.thread_type, stream.codec_context.thread_count = "NONE", 1
    stream.codec_context.options = {"flags": "low_delay"}
    scaler = VideoReformatter()
    # Left to itself, PyAV 17 and later starts a thread per core for each scaler.
    alone = {"threads": 1} if int(av.__version__.split(".")[0]) >= 17 else {}
    first = None
    for frame in container.decode(stream):
        at_s = float(frame.pts * frame.time_base) if frame.pts is not None else 0.0
        first = at_s if first is None else first

        def render(height: int, width: int, frame: Any = frame) -> U8:
            rgb = scaler.reformat(frame, width=width, height=height, format="rgb24", interpolation="AREA", **alone)
            return rgb.to_ndarray()

        yield round((at_s - first) * fps), render


def sampled(job: Job, camera: Camera, stream: int) -> Iterator[tuple[int, int, U8]]:
    """(grid point, picture's number, (H, W, 3)) of one camera at the model's rate, nearest pictures."""
    rate, model_rate = Fraction(job.fps).limit_denominator(1001), Fraction(job.spec["fps"]).limit_denominator(1001)
    point = 0
    for number, render in camera(job.urls[stream], job.fps):
        while number >= math.ceil(point * rate / model_rate - Fraction(1, 2)):
            yield point, number, render(job.spec["height"], job.spec["width"])
            point += 1


class Windows:
    """A thread a camera with a deque of its newest frames; whole windows for whoever predicts, the newest of each."""

    def __init__(self, job: Job, camera: Camera) -> None:
        self._job = job
        self._due: dict[int, tuple[int, list[U8]]] = {}
        self._changed = threading.Condition()
        for stream in range(len(job.urls)):
            threading.Thread(target=self._read, args=(camera, stream), daemon=True).start()

    def _read(self, camera: Camera, stream: int) -> None:
        frames: deque[U8] = deque(maxlen=self._job.frames)
        for point, number, frame in sampled(self._job, camera, stream):
            frames.append(frame)
            full = point + 1 - self._job.frames
            if full >= 0 and full % self._job.every == 0:
                with self._changed:
                    self._due[stream] = (number, list(frames))  # one that nobody took is lost
                    self._changed.notify()

    def __iter__(self) -> Iterator[tuple[int, int, U8]]:
        """(stream, number, (T, t, H, W, 3))."""
        spec = self._job.spec
        shape = tuple(spec[key] for key in ("chunks", "frames_per_chunk", "height", "width"))
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._due)
                stream = next(iter(self._due))
                number, frames = self._due.pop(stream)
            yield stream, number, np.stack(frames).reshape(*shape, 3)


class Chunks:
    """A thread a camera; chunks as they come, the oldest lost where nobody keeps up."""

    WAITING = 8

    def __init__(self, job: Job, camera: Camera) -> None:
        self._job = job
        self._chunks: queue.Queue[tuple[int, int, int, U8]] = queue.Queue(self.WAITING * len(job.urls))
        for stream in range(len(job.urls)):
            threading.Thread(target=self._read, args=(camera, stream), daemon=True).start()

    def _read(self, camera: Camera, stream: int) -> None:
        size = self._job.spec["frames_per_chunk"]
        frames: list[U8] = []
        for point, number, frame in sampled(self._job, camera, stream):
            frames.append(frame)
            if len(frames) == size:
                while True:
                    try:
                        self._chunks.put_nowait((stream, point // size, number, np.stack(frames)))
                        break
                    except queue.Full:
                        self._chunks.get()
                frames = []

    def __iter__(self) -> Iterator[tuple[int, int, int, U8]]:
        """(stream, index, number, (t, H, W, 3))."""
        while True:
            yield self._chunks.get()


def read_job() -> Job:
    """From standard input; the process then ends with it."""
    job = Job(**json.loads(sys.stdin.buffer.readline()))

    def wait() -> None:
        sys.stdin.buffer.read()
        os._exit(0)

    threading.Thread(target=wait, daemon=True).start()
    return job


def ready(job: Job, classify: Callable[[U8], npt.NDArray[np.float32]], *, tolerance: float = 2e-2) -> None:
    """The golden window gives PyTorch's probabilities, so that no peer computes something else; then begin."""
    with np.load(Path(job.bundle) / "golden.npz") as golden:
        frames, logits = golden["frames"], golden["logits"]
    for _ in range(2):
        found = classify(frames)
    difference = np.abs(_softmax(found) - _softmax(logits)).max()
    if difference > tolerance:
        sys.exit(f"the golden window is off by {difference:.1e}")
    say({})


def tell(stream: int, number: int) -> None:
    """A prediction is there."""
    say([stream, number, time.monotonic_ns()])


def say(message: object) -> None:
    """One line."""
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def _softmax(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    shifted = np.exp(logits - logits.max())
    return np.asarray(shifted / shifted.sum(), np.float32)
