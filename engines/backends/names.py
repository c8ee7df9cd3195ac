"""Name the backends, the precisions and the packages to install; light, because every command line imports it."""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

Backend: TypeAlias = Literal["auto", "openvino", "onnxruntime", "tensorrt", "triton"]
Precision: TypeAlias = Literal["auto", "fp32", "fp16", "bf16", "int8"]

GPU_BACKEND: Final = "tensorrt"
"""The backend that runs on NVIDIA GPUs, each of which has a number."""
SERVER_BACKEND: Final = "triton"
"""The backend that runs on a server, whose address it needs."""
CUDA_ADAPTERS: Final = ("pycuda", "cuda.bindings")
"""The modules through which TensorRT's adapter uses CUDA, in order of preference."""

TENSORRT_PACKAGES: Final = {
    12: "tensorrt-cu12 'cuda-bindings<13' onnx",
    13: "tensorrt-cu13 cuda-bindings onnx",
}
"""The arguments of `pip install` that bring TensorRT, by the CUDA version of the driver; none needs a compiler."""
INSTALL: Final = {
    "openvino": "openvino",
    "onnxruntime": "onnxruntime",
    "tensorrt": TENSORRT_PACKAGES[12],
    "triton": "'tritonclient[http]'",
}
"""The arguments of `pip install` that bring each backend's libraries; for TensorRT, those that every driver runs."""

LIBRARIES: Final[dict[str, tuple[tuple[str, ...], ...]]] = {
    "openvino": (("openvino",),),
    "onnxruntime": (("onnxruntime",),),
    "tensorrt": (("tensorrt",), CUDA_ADAPTERS),
    "triton": (("tritonclient",),),
}
"""The modules that each backend imports: one of each group, the first that is installed."""
