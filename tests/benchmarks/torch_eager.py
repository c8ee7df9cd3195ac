"""Run peer (b), Hugging Face style: OpenCV threads, a deque of frames, the whole window through the PyTorch model."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from benchmarks.make_bundles import build
from benchmarks.peer import Windows, check_and_begin, opencv, read_job, send_prediction

from engines.arrays import U8

job = read_job()
encoder, head, _ = build(job.spec["name"])


def classify(window: U8) -> npt.NDArray[np.float32]:
    """Classify a window, (T, t, H, W, 3) -> (K,)."""
    with torch.inference_mode():
        return np.asarray(head(encoder(torch.from_numpy(window))[None])[0].numpy())


check_and_begin(job, classify)
for stream, number, window in Windows(job, opencv):
    classify(window)
    send_prediction(stream, number)
