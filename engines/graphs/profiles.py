"""Prepare a graph for each generation of TensorRT: one profile for each, chosen by the features of the library.

| profile | TensorRT | graph |
|---|---|---|
| trt85 | 8.5 | opset 16, LayerNormalization in primitive operators that stay in FP32 |
| trt86 | 8.6 | as exported (opset 17); the builder lowers the precision |
| trt10 | 10 | typed by this module: FP16 or BF16 with statistics in FP32; the builder keeps the types |
| trt11 | 11 | as for 10; this builder always keeps the types |

Every profile gets plain shapes (`engines.graphs.shapes`). For 10 and 11, the part of an INT8 graph that is not
quantised computes in FP16.
"""

from __future__ import annotations

import importlib.util
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from engines.errors import BackendMissingError

if TYPE_CHECKING:
    from engines.backends.tensorrt.interface import TensorRtTraits

log = logging.getLogger("engine")

Profile: TypeAlias = Literal["trt85", "trt86", "trt10", "trt11"]
TYPED: Final = ("trt10", "trt11")
TYPED_AS: Final = {"fp16": "fp16", "bf16": "bf16", "int8": "fp16"}
"""The type that a typed graph has where it is neither quantised nor kept in FP32, by precision."""
LOW_OPSETS: Final = {"fp16": 0, "bf16": 22, "int8": 19}
"""The first opset with every operator in the low type: quantisation with FP16 scales has 19, convolution in BF16 22."""
OLD_IR_VERSION: Final = 8
"""The IR version of ONNX 1.10 to 1.12, with which TensorRT 8.5 and 8.6 were built."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedGraph:
    """A graph that is ready for the compiler."""

    profile: Profile
    onnx: bytes
    strongly_typed: bool
    keep_fp32: tuple[str, ...]
    """Nodes that the builder must leave in FP32, if it chooses the types."""


def profile_for(traits: TensorRtTraits) -> Profile:
    """Return the profile of the TensorRT with these traits."""
    if not traits.layer_norm:
        return "trt85"
    if not traits.strongly_typed:
        return "trt86"
    return "trt10" if traits.flags else "trt11"


def prepare_for_tensorrt(
    onnx: bytes, *, name: str, traits: TensorRtTraits, precision: str, keep_fp32: tuple[str, ...] = ()
) -> PreparedGraph:
    """Prepare the graph for the TensorRT with `traits`.

    Raises `CompileError`, or `BackendMissingError` if the graph must be changed and `onnx` is not installed.
    """
    return prepare_graph(onnx, name=name, profile=profile_for(traits), precision=precision, keep_fp32=keep_fp32)


def prepare_graph(
    onnx: bytes, *, name: str, profile: Profile, precision: str, keep_fp32: tuple[str, ...] = ()
) -> PreparedGraph:
    """Change, check and lint the graph for `profile`.

    Raises `CompileError`, or `BackendMissingError` if `onnx` is not installed.
    """
    if importlib.util.find_spec("onnx") is None:
        raise BackendMissingError(f"{name}: preparing it for TensorRT needs onnx; pip install onnx")
    from engines.graphs.layer_norm import decompose_layer_norms
    from engines.graphs.lint import check_graph
    from engines.graphs.lower import lower
    from engines.graphs.operators import OPSETS
    from engines.graphs.shapes import rewrite_shapes
    from engines.graphs.surgery import parse_model, raise_opset, serialise_checked

    typed = profile in TYPED
    model = parse_model(onnx, name)
    if not typed:  # the older parsers refuse a newer file format; the content is the same
        model.ir_version = min(model.ir_version, OLD_IR_VERSION)
    rewrite_shapes(model)
    fp32_nodes = keep_fp32
    if profile == "trt85":
        fp32_nodes = (*fp32_nodes, *decompose_layer_norms(model, name))
    if precision == "fp32":
        fp32_nodes = ()
    elif typed:
        if LOW_OPSETS[precision] <= OPSETS[profile]:
            raise_opset(model, LOW_OPSETS[precision], name)
        lower(model, TYPED_AS[precision], keep_fp32=fp32_nodes)
        fp32_nodes = ()
    data = serialise_checked(model, name)
    for finding in check_graph(data, name=name, profile=profile):
        log.info("%s: %s", name, finding.text)
    return PreparedGraph(profile=profile, onnx=data, strongly_typed=typed, keep_fp32=fp32_nodes)
