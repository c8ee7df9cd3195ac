"""Write a bundle as two models of a Triton Inference Server: the encoder and the head."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

from engines.bundle import ENCODER_FILE, HEAD_FILE, Bundle, ModelSpec
from engines.errors import BundleError

DIGEST: Final = "streamclf_sha256"
"""Parameter of a model's configuration: the sha256 of its graph, so that a wrong model is noticed."""


def triton_name(spec: ModelSpec, file: str) -> str:
    """Return the name of the server's model for a graph of a bundle, like `camera-events-encoder`."""
    return f"{spec.name}-{file.removesuffix('.onnx')}"


def write_repository(bundle: Bundle, folder: Path, *, max_batch: int) -> list[Path]:
    """Write both models into the model repository `folder`, and return their folders.

    The server batches the requests of all clients, up to `max_batch`. Models of the same name are replaced. Raises
    `BundleError` where the folder cannot be written.
    """
    spec = bundle.spec
    tensors = {
        ENCODER_FILE: (("frames", "TYPE_UINT8", spec.chunk_shape), ("features", "TYPE_FP32", spec.feature_shape)),
        HEAD_FILE: (
            ("features", "TYPE_FP32", (spec.chunks, *spec.feature_shape)),
            ("logits", "TYPE_FP32", (len(spec.labels),)),
        ),
    }
    written = []
    try:
        for file, (given, returned) in tensors.items():
            model = folder / triton_name(spec, file)
            (model / "1").mkdir(parents=True, exist_ok=True)
            shutil.copyfile(bundle.path / file, model / "1" / "model.onnx")
            text = "\n".join(
                (
                    f'name: "{model.name}"',
                    'backend: "onnxruntime"',
                    f"max_batch_size: {max_batch}",
                    f"input [ {_tensor(*given)} ]",
                    f"output [ {_tensor(*returned)} ]",
                    "dynamic_batching { max_queue_delay_microseconds: 1000 }",
                    f'parameters {{ key: "{DIGEST}" value: {{ string_value: "{spec.files[file]}" }} }}',
                )
            )
            (model / "config.pbtxt").write_text(text + "\n", encoding="utf-8")
            written.append(model)
    except OSError as error:
        raise BundleError(f"--triton {folder}: {error.strerror or error}; give another directory") from error
    return written


def _tensor(name: str, dtype: str, shape: tuple[int, ...]) -> str:
    return f'{{ name: "{name}" data_type: {dtype} dims: [ {", ".join(map(str, shape))} ] }}'
