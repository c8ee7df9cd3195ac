"""Names of the backends and precisions, and what to install for each; imported by command lines, so it is light."""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

Backend: TypeAlias = Literal["auto", "openvino", "onnxruntime", "tensorrt"]
Precision: TypeAlias = Literal["auto", "fp32", "fp16", "bf16", "int8"]

INSTALL: Final = {
    "openvino": "streamclf",
    "onnxruntime": "streamclf[onnxruntime]",
    "tensorrt": "streamclf[tensorrt]",
}
"""What to `pip install` for each backend's libraries."""

LIBRARIES: Final = {"openvino": ("openvino",), "onnxruntime": ("onnxruntime",), "tensorrt": ("tensorrt", "pycuda")}
"""The modules that each backend imports."""
