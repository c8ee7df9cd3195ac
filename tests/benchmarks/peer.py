"""Share what all peers need: the job, threads that read the cameras, and the messages for predictions.

A peer is a module that runs as a process. Its standard input has one line of JSON, a `Job`; when the input ends, the
process ends. On standard output it prints `{}` once it is ready, and then `[stream, frame, monotonic ns]` for each
prediction. `frame` is the number of the last frame in the window: the comparison counts the latency from it, as for
streamclf.
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
    """The model, the cameras and the settings of a peer."""

    bundle: str
    urls: list[str]
    fps: float
    hop: int
    spec: dict[str, Any]
    precision: str = "fp32"
    threads: int = 0
    """Threads for inference; 0: the default of the library."""
    fast: bool = False
    """Decode without the deblocking filter. Only PyAV can: OpenCV hands no options to FFmpeg's decoders."""

    @property
    def frames(self) -> int:
        """Frames in a window."""
        return int(self.spec["chunks"] * self.spec["frames_per_chunk"])

    @property
    def every(self) -> int:
        """Sampled frames from one prediction to the next."""
        return int(self.hop * self.spec["frames_per_chunk"])


class Camera(Protocol):
    """Yield the frames of one stream, each with its number: media time times the camera's rate."""

    def __call__(self, job: Job, stream: int) -> Iterator[tuple[int, Callable[[int, int], U8]]]:
        """Yield (number, render); `render(height, width)` returns the frame, (H, W, 3) uint8 RGB."""


def opencv(job: Job, stream: int) -> Iterator[tuple[int, Callable[[int, int], U8]]]:
    """Read with `cv2.VideoCapture` as tutorials do: decode every frame to full-size BGR, resize the sampled ones."""
    import cv2

    os.environ.setdefault("OPENCV_FFMPEG_CAPTURE_OPTIONS", "rtsp_transport;tcp")
    capture = cv2.VideoCapture(job.urls[stream], cv2.CAP_FFMPEG)
    first = None
    while True:
        read, image = capture.read()
        if not read:
            return
        at_ms = capture.get(cv2.CAP_PROP_POS_MSEC)
        first = at_ms if first is None else first

        def render(height: int, width: int, image: Any = image) -> U8:
            return np.asarray(cv2.cvtColor(cv2.resize(image, (width, height)), cv2.COLOR_BGR2RGB), np.uint8)

        yield round((at_ms - first) * job.fps / 1000), render


def pyav(job: Job, stream: int) -> Iterator[tuple[int, Callable[[int, int], U8]]]:
    """Read with PyAV at its fastest: low delay, one thread, scaled directly to the model's size."""
    import av
    from av.video.reformatter import VideoReformatter

    options = {"rtsp_transport": "tcp", "probesize": "32", "analyzeduration": "0", "fpsprobesize": "0"}
    container = av.open(job.urls[stream], options=options, timeout=(120, 10))
    video = container.streams.video[0]
    video.codec_context.thread_type, video.codec_context.thread_count = "NONE", 1
    video.codec_context.options = {"flags": "low_delay", **({"skip_loop_filter": "all"} if job.fast else {})}
    scaler = VideoReformatter()
    # By default PyAV 17 and later starts a thread per core for each scaler.
    one_thread = {"threads": 1} if int(av.__version__.split(".")[0]) >= 17 else {}
    first = None
    for frame in container.decode(video):
        at_s = float(frame.pts * frame.time_base) if frame.pts is not None else 0.0
        first = at_s if first is None else first

        def render(height: int, width: int, frame: Any = frame) -> U8:
            rgb = scaler.reformat(frame, width=width, height=height, format="rgb24", interpolation="AREA", **one_thread)
            return rgb.to_ndarray()

        yield round((at_s - first) * job.fps), render


def sampled(job: Job, camera: Camera, stream: int) -> Iterator[tuple[int, int, U8]]:
    """Yield (grid point, frame number, (H, W, 3)) of one camera at the model's rate, with the nearest frames."""
    rate, model_rate = Fraction(job.fps).limit_denominator(1001), Fraction(job.spec["fps"]).limit_denominator(1001)
    point = 0
    for number, render in camera(job, stream):
        while number >= math.ceil(point * rate / model_rate - Fraction(1, 2)):
            yield point, number, render(job.spec["height"], job.spec["width"])
            point += 1


class Windows:
    """Read each camera in a thread with a deque of its newest frames, and yield the newest window of each stream."""

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
                    self._due[stream] = (number, list(frames))  # replaces a window that was not yielded
                    self._changed.notify()

    def __iter__(self) -> Iterator[tuple[int, int, U8]]:
        """Yield (stream, number, (T, t, H, W, 3))."""
        spec = self._job.spec
        shape = tuple(spec[key] for key in ("chunks", "frames_per_chunk", "height", "width"))
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._due)
                stream = next(iter(self._due))
                number, frames = self._due.pop(stream)
            yield stream, number, np.stack(frames).reshape(*shape, 3)


class Chunks:
    """Read each camera in a thread and yield chunks in order of arrival; a full queue drops the oldest chunk."""

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
        """Yield (stream, index, number, (t, H, W, 3))."""
        while True:
            yield self._chunks.get()


def read_job() -> Job:
    """Read the job from standard input, and end the process when the input ends."""
    job = Job(**json.loads(sys.stdin.buffer.readline()))

    def wait() -> None:
        sys.stdin.buffer.read()
        os._exit(0)

    threading.Thread(target=wait, daemon=True).start()
    return job


def check_and_begin(job: Job, classify: Callable[[U8], npt.NDArray[np.float32]], *, tolerance: float = 2e-2) -> None:
    """Check that the golden window gives PyTorch's probabilities, and print that the peer is ready."""
    with np.load(Path(job.bundle) / "golden.npz") as golden:
        frames, logits = golden["frames"], golden["logits"]
    for _ in range(2):
        found = classify(frames)
    difference = np.abs(_softmax(found) - _softmax(logits)).max()
    if difference > tolerance:
        sys.exit(f"the golden window is off by {difference:.1e}")
    print_line({})


def send_prediction(stream: int, number: int) -> None:
    """Print a prediction whose window ends with the frame `number`."""
    print_line([stream, number, time.monotonic_ns()])


def print_line(message: object) -> None:
    """Print one line of JSON."""
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def _softmax(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    shifted = np.exp(logits - logits.max())
    return np.asarray(shifted / shifted.sum(), np.float32)
