"""Quantise a bundle to INT8 with windows of its own data: add quantised graphs (QDQ) beside the exact ones.

The module uses ONNX Runtime's static quantiser, which is installed wherever bundles are made. Its options limit it to
graphs that TensorRT supports: symmetric int8 for weights and activations, one scale for each output channel of a
weight, and no quantised biases.
"""

from __future__ import annotations

import bisect
import contextlib
import io
import logging
import shutil
import tempfile
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from engines.arrays import U8
from engines.bundle import INT8_ENCODER_FILE, INT8_HEAD_FILE, SPEC_FILE, Bundle, ModelSpec, write_spec
from engines.errors import BundleError
from engines.graphs.qdq import quantised_nodes, without_quantisation
from engines.graphs.surgery import parse_model

log = logging.getLogger("engine")

OPERATORS: Final = (["Conv", "MatMul", "Gemm"], ["MatMul", "Gemm"])
"""The operators to quantise, where most of the work is; the fastest combination is tried first.

The first convolution, over pixels, is never quantised. It loses the most in INT8, and OpenVINO 2026.4 computes it in
another way than ONNX Runtime: its output differs by 17 %."""
MAX_ERROR: Final = 0.04
"""Largest error of a graph's output over the calibration set, relative to the norm of the output."""
MAX_FP32_SHARE: Final = 0.5
"""A graph gains too little from INT8 if more than this share of its quantised nodes must stay in fp32."""
TRIAL_SAMPLES: Final = 32
"""Number of samples on which single nodes are tried."""
TRIAL_MARGIN: Final = 0.8
"""On so few samples the error may be too low by chance, so there it must be below this share of the limit."""
MAX_WINDOWS: Final = 4096
BATCH_BYTES: Final = 8 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationWindows:
    """Windows in the format of a bundle: `frames` (N, T, t, H, W, 3) uint8 RGB, and `labels` if they are known.

    `labels`: (N,) indices, or (N, K) of zeros and ones where the model's labels are independent.
    """

    frames: U8
    labels: npt.NDArray[np.int64] | None


def load_windows(path: Path, spec: ModelSpec) -> CalibrationWindows:
    """Load `windows`, and `labels` if it has them, from the .npz file at `path`. Raises `BundleError`."""
    try:
        with np.load(path, allow_pickle=False) as npz:
            windows: U8 = npz["windows"]
            labels = npz["labels"].astype(np.int64) if "labels" in npz else None
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise BundleError(
            f"{path}: not a calibration set ({error}); give an .npz with `windows`, (N, T, t, H, W, 3) uint8 RGB"
        ) from error
    shape = (spec.chunks, *spec.chunk_shape)
    if windows.dtype != np.uint8 or windows.shape[1:] != shape or not 1 <= len(windows) <= MAX_WINDOWS:
        raise BundleError(
            f"{path}: windows are {windows.dtype} {windows.shape}; {spec.id} needs uint8 (1 to {MAX_WINDOWS}, "
            f"{', '.join(map(str, shape))})"
        )
    if labels is not None:
        _check_labels(path, labels, len(windows), spec)
    return CalibrationWindows(frames=windows, labels=labels)


def _check_labels(path: Path, labels: npt.NDArray[np.int64], windows: int, spec: ModelSpec) -> None:
    wanted, last = f"one for each of {windows} windows", len(spec.labels) - 1
    shape: tuple[int, ...] = (windows,)
    if spec.activation == "sigmoid":
        wanted, last, shape = f"({windows}, {len(spec.labels)}), for each window and label", 1, (windows, last + 1)
    if labels.shape != shape or not 0 <= labels.min() <= labels.max() <= last:
        raise BundleError(f"{path}: labels are {labels.shape}; give {wanted}, from 0 to {last}")


def quantise_bundle(
    bundle: Bundle, windows: U8, path: Path, *, max_error: float = MAX_ERROR, clip: bool = True
) -> Bundle:
    """Write a copy of `bundle`, with its two graphs in INT8 added, to the new directory `path`.

    Nodes that push the error of a graph's output over `max_error`, relative to its norm over `windows`, stay in fp32.
    Without `clip`, the scales follow the largest activation: this is less exact, but fast, and needs no gigabytes for
    attention over thousands of chunks.
    """
    if path.exists():
        raise BundleError(f"{path}: exists already; choose another folder")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".int8-") as folder:
        new = Path(folder) / "bundle"
        new.mkdir()
        for name in bundle.spec.files:
            shutil.copy2(bundle.path / name, new / name)
        chunks = windows.reshape(-1, *bundle.spec.chunk_shape)
        features = _outputs(bundle.encoder_path, "frames", chunks)
        by_window = features.reshape(len(windows), bundle.spec.chunks, *bundle.spec.feature_shape)
        encoder, head = (_plain_copy(path, Path(folder)) for path in (bundle.encoder_path, bundle.head_path))
        quantise_graph(encoder, new / INT8_ENCODER_FILE, "frames", chunks, max_error, clip)
        quantise_graph(head, new / INT8_HEAD_FILE, "features", by_window, max_error, clip)
        write_spec(new, bundle.spec.model_dump(exclude={"files"}))
        assert (new / SPEC_FILE).is_file()
        new.rename(path)
    return Bundle(path=path, spec=write_spec(path, bundle.spec.model_dump(exclude={"files"})).spec)


def _plain_copy(source: Path, folder: Path) -> Path:
    """Copy a graph whose weights are stored as bytes, with plain weights: the quantiser finds no others."""
    if all(tensor.data_type != onnx.TensorProto.UINT8 for tensor in onnx.load(source).graph.initializer):
        return source
    path = folder / source.name
    onnx.save(parse_model(source.read_bytes(), source.name), path)
    return path


def quantise_graph(
    source: Path, target: Path, input_name: str, samples: npt.NDArray[Any], max_error: float, clip: bool = True
) -> None:
    """Quantise as many nodes as `max_error` allows; the worst stay in fp32, in the worst case the whole graph."""
    exact = _outputs(source, input_name, samples)
    present = _quantisable_operators(source)
    for operators in OPERATORS:
        kinds = ", ".join(kind for kind in operators if kind in present)
        if not kinds:
            continue
        _quantise_operators(source, target, input_name, samples, operators, clip)
        error = _relative_error(_outputs(target, input_name, samples), exact)
        if error > max_error:
            log.info("%s: %s in INT8: output error %.0f %%; searching for the cause", source.name, kinds, 100 * error)
            restored = _restore_worst_nodes(target, input_name, samples, exact, max_error)
            error = _relative_error(_outputs(target, input_name, samples), exact)
            if restored:
                log.info("%s: not in INT8: %s", source.name, ", ".join(restored))
        if error <= max_error:
            log.info("%s: %s in INT8: output error %.1f %%", source.name, kinds, 100 * error)
            return
        log.warning("%s: %s in INT8: output error %.0f %%, which is too much", source.name, kinds, 100 * error)
    reason = (
        "INT8 makes its output too inexact"
        if present.intersection(OPERATORS[0])
        else "it has no operator that is quantised"
    )
    log.warning("%s stays in fp32: %s", source.name, reason)
    shutil.copy2(source, target)


def _quantisable_operators(path: Path) -> set[str]:
    """List the operators of the nodes with constant inputs; a product of two activations is not quantised."""
    graph = onnx.load(path).graph
    constants, first = {tensor.name for tensor in graph.initializer}, _first_convolution(path)
    return {node.op_type for node in graph.node if node.name not in first and constants.intersection(node.input)}


def _restore_worst_nodes(
    path: Path, input_name: str, samples: npt.NDArray[Any], exact: npt.NDArray[np.float32], max_error: float
) -> list[str]:
    """Change as few nodes of the graph at `path` back to fp32 as bring its output's error below `max_error`.

    The nodes are ranked by the error that each causes alone, so one pass over the nodes is enough. If more than
    `MAX_FP32_SHARE` of them would be needed, the graph does not change. Returns the names of the nodes.
    """
    model = onnx.load(path)
    trial = np.linspace(0, len(samples) - 1, min(TRIAL_SAMPLES, len(samples))).astype(np.int64)

    def error_without(restored: Collection[str]) -> float:
        graph = without_quantisation(model, restored)
        return _relative_error(_outputs(graph.SerializeToString(), input_name, samples[trial]), exact[trial])

    nodes = quantised_nodes(model)
    error_alone = {node: error_without([other for other in nodes if other != node]) for node in nodes}
    worst = sorted(nodes, key=lambda node: -error_alone[node])
    most = max(1, int(MAX_FP32_SHARE * len(nodes)))
    if error_without(worst[:most]) > TRIAL_MARGIN * max_error:
        return []
    count = bisect.bisect_left(range(most), True, key=lambda n: error_without(worst[:n]) <= TRIAL_MARGIN * max_error)
    onnx.save(without_quantisation(model, worst[:count]), path)
    return worst[:count]


def _relative_error(actual: npt.NDArray[np.float32], exact: npt.NDArray[np.float32]) -> float:
    return float(np.linalg.norm(actual - exact) / (np.linalg.norm(exact) + 1e-12))


def _first_convolution(path: Path) -> list[str]:
    return [node.name for node in onnx.load(path).graph.node if node.op_type == "Conv"][:1]


def _outputs(graph: Path | bytes, input_name: str, samples: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    settings = ort.SessionOptions()
    settings.log_severity_level = 3
    session = ort.InferenceSession(
        graph if isinstance(graph, bytes) else str(graph), settings, providers=["CPUExecutionProvider"]
    )
    return np.concatenate([session.run(None, batch)[0] for batch in _batches(input_name, samples)])


def _quantise_operators(
    source: Path, target: Path, input_name: str, samples: npt.NDArray[Any], operators: list[str], clip: bool
) -> None:
    with tempfile.TemporaryDirectory() as folder, _silenced_quantiser():
        prepared = Path(folder) / "prepared.onnx"
        # Infer shapes only: an optimised graph would have operators that only ONNX Runtime knows.
        quant_pre_process(str(source), str(prepared), skip_optimization=True, skip_symbolic_shape=True)
        quantize_static(
            str(prepared),
            str(target),
            _SampleReader(input_name, samples),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=operators,
            nodes_to_exclude=_first_convolution(prepared),
            per_channel=True,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            # Clip the rarest activations, or their range makes all others coarser: max |dp| 0.079 instead of 0.040
            # on the built-in model.
            calibrate_method=CalibrationMethod.Percentile if clip else CalibrationMethod.MinMax,
            extra_options={
                "CalibPercentile": 99.99,
                # Feed one batch at a time, to every calibrator. Otherwise it keeps every activation of every sample
                # (23 GB for 256 windows of 16 chunks) and fails if the last batch is smaller than the others.
                "CalibStridedMinMax": 1,
                "ActivationSymmetric": True,
                "WeightSymmetric": True,
                "QuantizeBias": False,  # TensorRT has no int32 DequantizeLinear
                "AddQDQPairToWeight": True,
                # A product's output is rounded only where the next quantised product reads it.
                "OpTypesToExcludeOutputQuantization": operators,
                "MatMulConstBOnly": True,  # products of two activations belong to attention and lose the most
            },
        )


class _SampleReader(CalibrationDataReader):  # type: ignore[misc]  # ONNX Runtime has no type stubs
    """Give the calibrator the samples in batches; it asks for one range of batches after the other."""

    def __init__(self, input_name: str, samples: npt.NDArray[Any]) -> None:
        self._batches: list[dict[str, npt.NDArray[Any]]] = list(_batches(input_name, samples))
        self._range = iter(self._batches)

    def __len__(self) -> int:
        return len(self._batches)

    def set_range(self, start_index: int, end_index: int) -> None:
        """Let `get_next` return the batches from `start_index` to before `end_index`."""
        self._range = iter(self._batches[start_index:end_index])

    def get_next(self) -> dict[str, npt.NDArray[Any]] | None:
        """Return the next batch of the range, None at its end."""
        return next(self._range, None)


def _batches(input_name: str, samples: npt.NDArray[Any]) -> Iterator[dict[str, npt.NDArray[Any]]]:
    """Yield views of up to 8 samples; of fewer if the samples are large, because their activations are large too."""
    size = max(1, min(8, BATCH_BYTES // samples[0].nbytes))
    starts: Iterable[int] = range(0, len(samples), size)
    for begin in starts:
        yield {input_name: samples[begin : begin + size]}


@contextlib.contextmanager
def _silenced_quantiser() -> Iterator[None]:
    """Silence the quantiser: it advises pre-processing, which was done, and prints to stdout, where the JSON goes."""
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)
