"""Name the backends, the precisions and the packages to install; light, because every command line imports it."""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

Backend: TypeAlias = Literal["auto", "openvino", "onnxruntime", "tensorrt"]
Precision: TypeAlias = Literal["auto", "fp32", "fp16", "bf16", "int8"]

INSTALL: Final = {
    "openvino": "streamclf",
    "onnxruntime": "streamclf[onnxruntime]",
    "tensorrt": "streamclf[tensorrt]",
}
"""The argument of `pip install` that brings each backend's libraries."""

LIBRARIES: Final = {"openvino": ("openvino",), "onnxruntime": ("onnxruntime",), "tensorrt": ("tensorrt", "pycuda")}
"""The modules that each backend imports."""
