"""Run peer (c), the strongest: PyAV at low delay, encoder and head apart in OpenVINO, a deque of features."""

from __future__ import annotations

import engines  # isort: skip  # noqa: F401 - switches OpenVINO's usage reports off, before OpenVINO is imported

from collections import defaultdict, deque
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import openvino as ov
from benchmarks.peer import Chunks, check_and_begin, pyav, read_job, send_prediction

from engines.arrays import U8

job = read_job()
hint: dict[str, Any] = {
    "PERFORMANCE_HINT": "LATENCY",
    "INFERENCE_PRECISION_HINT": {"fp32": "f32", "bf16": "bf16"}[job.precision],
    **({"INFERENCE_NUM_THREADS": job.threads} if job.threads else {}),
}
core = ov.Core()
encoder, head = (
    core.compile_model(Path(job.bundle) / f"{name}.onnx", "CPU", hint).create_infer_request()
    for name in ("encoder", "head")
)
chunks = job.spec["chunks"]


def encode(chunk: U8) -> npt.NDArray[np.float32]:
    """Encode a chunk, (t, H, W, 3) -> (*F,)."""
    return np.array(encoder.infer({0: ov.Tensor(chunk[None], shared_memory=True)})[0][0])


def decide(features: Any) -> npt.NDArray[np.float32]:
    """Classify the T features (*F,) of a window -> (K,)."""
    window = np.stack(features)[None]
    return np.array(head.infer({0: ov.Tensor(window, shared_memory=True)})[0][0])


check_and_begin(job, lambda window: decide([encode(np.ascontiguousarray(chunk)) for chunk in window]))
kept: dict[int, deque[npt.NDArray[np.float32]]] = defaultdict(lambda: deque(maxlen=chunks))
newest: dict[int, int] = {}
for stream, index, number, chunk in Chunks(job, pyav):
    if index != newest.get(stream, -1) + 1:
        kept[stream].clear()
    newest[stream] = index
    kept[stream].append(encode(chunk))
    if len(kept[stream]) == chunks and (index + 1 - chunks) % job.hop == 0:
        decide(kept[stream])
        send_prediction(stream, number)
