"""What each generation of TensorRT is given: one profile for each, chosen by what the library has.

| profile | for | graph |
|---|---|---|
| trt85 | 8.5 | opset 16, LayerNormalization in primitives that stay in FP32 |
| trt86 | 8.6 | as exported (opset 17); the builder lowers precision |
| trt10 | 10 | typed by us: FP16 or BF16 with statistics in FP32; the builder obeys |
| trt11 | 11 | the same; the builder knows no other way |
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
OLD_IR_VERSION: Final = 8
"""ONNX 1.10 to 1.12, which TensorRT 8.5 and 8.6 were built with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A graph as a compiler takes it."""

    profile: Profile
    onnx: bytes
    strongly_typed: bool
    keep_fp32: tuple[str, ...]
    """Nodes that a builder which chooses types itself must leave in FP32."""


def profile_for(traits: TensorRtTraits) -> Profile:
    """The profile of the TensorRT that has these traits."""
    if not traits.layer_norm:
        return "trt85"
    if not traits.strongly_typed:
        return "trt86"
    return "trt10" if traits.flags else "trt11"


def prepare_for_tensorrt(
    onnx: bytes, *, name: str, traits: TensorRtTraits, precision: str, keep_fp32: tuple[str, ...] = ()
) -> Prepared:
    """The graph for the TensorRT with `traits`. Raises `CompileError`, or `BackendMissingError` without `onnx`."""
    return prepare(onnx, name=name, profile=profile_for(traits), precision=precision, keep_fp32=keep_fp32)


def prepare(onnx: bytes, *, name: str, profile: Profile, precision: str, keep_fp32: tuple[str, ...] = ()) -> Prepared:
    """The graph in `profile`: changed, checked and linted. A graph that needs no change is passed on as it is."""
    typed = profile in TYPED
    lowered = precision in ("fp16", "bf16")
    if importlib.util.find_spec("onnx") is None:
        if (typed and lowered) or (profile == "trt85" and b"LayerNormalization" in onnx) or keep_fp32:
            raise BackendMissingError(
                f"{name}: preparing it for this TensorRT in {precision} needs onnx; pip install 'streamclf[tensorrt]'"
            )
        return Prepared(profile=profile, onnx=onnx, strongly_typed=typed, keep_fp32=())
    from engines.graphs.layer_norm import decompose_layer_norms
    from engines.graphs.lint import check_graph
    from engines.graphs.lower import lower
    from engines.graphs.surgery import finished, parse_model

    model = parse_model(onnx, name)
    if not typed:  # their parsers know no newer format of the file; what it holds is the same
        model.ir_version = min(model.ir_version, OLD_IR_VERSION)
    kept = keep_fp32
    if profile == "trt85":
        kept = (*kept, *decompose_layer_norms(model, name))
    if typed and lowered:
        lower(model, precision, keep_fp32=kept)
        kept = ()
    data = finished(model, name)
    for finding in check_graph(data, name=name, profile=profile):
        log.info("%s: %s", name, finding.text)
    return Prepared(profile=profile, onnx=data, strongly_typed=typed, keep_fp32=kept if lowered else ())
