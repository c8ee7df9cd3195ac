"""List the ONNX operators that each generation of TensorRT supports.

The base is the support matrix of onnx-tensorrt for 8.4 (its docs/operators.md). The operators of later generations come
from the release notes.
"""

from __future__ import annotations

from typing import Final

BASE: Final = frozenset(
    """
    Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh AveragePool BatchNormalization Cast Ceil Celu Clip Concat
    Constant ConstantOfShape Conv ConvTranspose Cos Cosh CumSum DepthToSpace DequantizeLinear Div Dropout Einsum Elu
    Equal Erf Exp Expand EyeLike Flatten Floor GRU Gather GatherElements GatherND Gemm GlobalAveragePool GlobalLpPool
    GlobalMaxPool Greater GreaterOrEqual HardSigmoid Identity If InstanceNormalization IsNaN LRN LSTM LeakyRelu Less
    LessOrEqual Log LogSoftmax Loop LpNormalization LpPool MatMul Max MaxPool Mean Min Mul Neg NonMaxSuppression Not Or
    PRelu Pad Pow QuantizeLinear RNN RandomUniform RandomUniformLike Range ReduceL1 ReduceL2 ReduceLogSum
    ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Reshape Resize
    ReverseSequence Round Scan Scatter ScatterElements ScatterND Selu Shape Sigmoid Sign Sin Sinh Size Slice Softmax
    Softplus Softsign SpaceToDepth Split Sqrt Squeeze Sub Sum Tan Tanh ThresholdedRelu Tile TopK Transpose Unsqueeze
    Upsample Where Xor
    """.split()  # noqa: SIM905 - a table is easier to compare with its source
)
ADDED: Final = {
    "trt85": frozenset({"GridSample", "HardSwish", "IsInf", "Mod", "NonZero", "OneHot", "Shrink", "Trilu"}),
    "trt86": frozenset({"GroupNormalization", "LayerNormalization"}),
    "trt10": frozenset({"Gelu", "Hardmax", "Mish"}),
    "trt11": frozenset({"Attention", "RMSNormalization"}),
}
"""The operators that each profile adds to the profiles before it."""
OPSETS: Final = {"trt85": 16, "trt86": 17, "trt10": 20, "trt11": 24}
"""The newest opset of a graph for each profile. 8.5 nominally supports 17, but without LayerNormalization."""
PROFILES: Final = tuple(OPSETS)


def supported_operators(profile: str) -> frozenset[str]:
    """Return the operators that TensorRT of this profile supports."""
    included = PROFILES[: PROFILES.index(profile) + 1]
    return BASE.union(*(ADDED[name] for name in included))
