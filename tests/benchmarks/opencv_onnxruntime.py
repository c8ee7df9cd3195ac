"""Run peer (a), as tutorials do: OpenCV threads, a deque of frames, the whole window through ONNX Runtime each time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from benchmarks.peer import Windows, check_and_begin, opencv, read_job, send_prediction

from engines.arrays import U8

job = read_job()
encoder, head = (
    ort.InferenceSession(Path(job.bundle) / f"{name}.onnx", providers=["CPUExecutionProvider"])
    for name in ("encoder", "head")
)


def classify(window: U8) -> npt.NDArray[np.float32]:
    """Classify a window, (T, t, H, W, 3) -> (K,)."""
    (features,) = encoder.run(None, {"frames": window})
    return np.asarray(head.run(None, {"features": features[None]})[0][0])


check_and_begin(job, classify)
for stream, number, window in Windows(job, opencv):
    classify(window)
    send_prediction(stream, number)
