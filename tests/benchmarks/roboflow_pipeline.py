"""Run peer (d), roboflow's `InferencePipeline` with custom logic: the whole window through ONNX Runtime.

The package `inference` installs hundreds of others and pins many, so it needs its own environment: see README.md.
"""

from __future__ import annotations

import os
from collections import defaultdict, deque
from pathlib import Path
from typing import Any

os.environ.setdefault("OPENCV_FFMPEG_CAPTURE_OPTIONS", "rtsp_transport;tcp")

import cv2
import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from benchmarks.peer import check_and_begin, read_job, send_prediction
from inference import InferencePipeline

from engines.arrays import U8

job = read_job()
encoder, head = (
    ort.InferenceSession(Path(job.bundle) / f"{name}.onnx", providers=["CPUExecutionProvider"])
    for name in ("encoder", "head")
)
height, width = job.spec["height"], job.spec["width"]
shape = (job.spec["chunks"], job.spec["frames_per_chunk"], height, width, 3)
kept: dict[int, deque[U8]] = defaultdict(lambda: deque(maxlen=job.frames))
points: dict[int, int] = defaultdict(int)
"""By stream: the number of sampled grid points. The next frame fills the points of frames that the pipeline dropped."""


def classify(window: U8) -> npt.NDArray[np.float32]:
    """Classify a window, (T, t, H, W, 3) -> (K,)."""
    (features,) = encoder.run(None, {"frames": window})
    return np.asarray(head.run(None, {"features": features[None]})[0][0])


def classify_batch(frames: list[Any]) -> list[None]:
    """Process one batch of frames, at most one per stream; the pipeline's custom logic."""
    for frame in frames:
        number, stream = frame.frame_id - 1, frame.source_id or 0
        while number >= points[stream] * job.fps / job.spec["fps"] - 0.5:
            small = cv2.cvtColor(cv2.resize(frame.image, (width, height)), cv2.COLOR_BGR2RGB)
            kept[stream].append(np.asarray(small, np.uint8))
            points[stream] += 1
            full = points[stream] - job.frames
            if full >= 0 and full % job.every == 0:
                classify(np.stack(kept[stream]).reshape(shape))
                send_prediction(stream, number)
    return [None] * len(frames)


check_and_begin(job, classify)
pipeline = InferencePipeline.init_with_custom_logic(video_reference=job.urls, on_video_frame=classify_batch)
pipeline.start()
pipeline.join()
