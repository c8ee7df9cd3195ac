"""INT8: a bundle and windows of its own data -> the same bundle with quantised graphs (QDQ) beside the exact ones.

ONNX Runtime's static quantiser, because it is there already wherever bundles are made, and because it can be held to
what TensorRT takes: symmetric int8 on both sides, one scale for each output channel of a weight, biases left alone.
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

log = logging.getLogger("engine")


OPERATORS: Final = (["Conv", "MatMul", "Gemm"], ["MatMul", "Gemm"])
"""Where the work is: what is tried, the fastest first. The first convolution, over pixels, is always left alone: it
bears INT8 worst, and OpenVINO 2026.4 computes it another way than ONNX Runtime does (17 % of the output apart)."""
MAX_ERROR: Final = 0.04
"""Of a graph's output, as a share of its size, over the calibration set."""
MAX_KEPT: Final = 0.5
"""Of the quantised nodes: a graph of which more must stay in fp32 gains too little."""
FEW: Final = 32
"""Samples on which single nodes are tried; a few may flatter, so there the output must be better by `MARGIN`."""
MARGIN: Final = 0.8
MAX_WINDOWS: Final = 4096
BATCH_BYTES: Final = 8 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationWindows:
    """Windows in a bundle's recipe: `frames` (N, T, t, H, W, 3) uint8 RGB, `labels` (N,) indices where known."""

    frames: U8
    labels: npt.NDArray[np.int64] | None


def load_windows(path: Path, spec: ModelSpec) -> CalibrationWindows:
    """`windows`, and `labels` if they are there, of the .npz file. Raises `BundleError`."""
    try:
        with np.load(path, allow_pickle=False) as npz:
            windows: U8 = npz["windows"]
            labels = npz["labels"].astype(np.int64) if "labels" in npz else None
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise BundleError(
            f"{path}: not a calibration set ({error}); it is an .npz with `windows`, (N, T, t, H, W, 3) uint8 RGB"
        ) from error
    want = (spec.chunks, *spec.chunk_shape)
    if windows.dtype != np.uint8 or windows.shape[1:] != want or not 1 <= len(windows) <= MAX_WINDOWS:
        raise BundleError(
            f"{path}: windows are {windows.dtype} {windows.shape}; {spec.id} takes uint8 (1 to {MAX_WINDOWS}, "
            f"{', '.join(map(str, want))})"
        )
    if labels is not None and (
        labels.shape != (len(windows),) or not 0 <= labels.min() <= labels.max() < len(spec.labels)
    ):
        raise BundleError(
            f"{path}: labels are {labels.shape}; one for each of {len(windows)} windows, 0 to {len(spec.labels) - 1}"
        )
    return CalibrationWindows(frames=windows, labels=labels)


def quantise_bundle(
    bundle: Bundle, windows: U8, path: Path, *, max_error: float = MAX_ERROR, clip: bool = True
) -> Bundle:
    """Write the bundle at the new directory `path`: all of `bundle`, and its two graphs in INT8.

    What would take a graph's output off by more than `max_error`, a share of its size over `windows`, stays as it is.
    Without `clip` scales follow the largest activation: less exact, but quick, and without gigabytes for attention over
    thousands of chunks.
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
        _quantise(bundle.encoder_path, new / INT8_ENCODER_FILE, "frames", chunks, max_error, clip)
        _quantise(bundle.head_path, new / INT8_HEAD_FILE, "features", by_window, max_error, clip)
        write_spec(new, bundle.spec.model_dump(exclude={"files"}))
        assert (new / SPEC_FILE).is_file()
        new.rename(path)
    return Bundle(path=path, spec=write_spec(path, bundle.spec.model_dump(exclude={"files"})).spec)


def _quantise(
    source: Path, target: Path, name: str, samples: npt.NDArray[Any], max_error: float, clip: bool = True
) -> None:
    """Quantise as much as the calibration set bears; what bears it worst stays as it is, in the end all of it."""
    exact = _outputs(source, name, samples)
    there = _quantisable(source)
    for operators in OPERATORS:
        kinds = ", ".join(kind for kind in operators if kind in there)
        if not kinds:
            continue
        _quantise_operators(source, target, name, samples, operators, clip)
        error = _error(_outputs(target, name, samples), exact)
        if error > max_error:
            log.info("%s: %s in INT8: output off by %.0f %%; looking for the cause", source.name, kinds, 100 * error)
            kept = _leave_worst(target, name, samples, exact, max_error)
            error = _error(_outputs(target, name, samples), exact)
            if kept:
                log.info("%s: not in INT8: %s", source.name, ", ".join(kept))
        if error <= max_error:
            log.info("%s: %s in INT8; output off by %.1f %%", source.name, kinds, 100 * error)
            return
        log.warning("%s: %s in INT8 takes its output off by %.0f %%", source.name, kinds, 100 * error)
    bears = "nothing in it bears INT8" if there.intersection(OPERATORS[0]) else "there is nothing in it for INT8"
    log.warning("%s stays as it is: %s", source.name, bears)
    shutil.copy2(source, target)


def _quantisable(path: Path) -> set[str]:
    """The kinds of nodes that INT8 is for, of those that are there: a product of two activations is not one."""
    graph = onnx.load(path).graph
    constants, first = {tensor.name for tensor in graph.initializer}, _first_convolution(path)
    return {node.op_type for node in graph.node if node.name not in first and constants.intersection(node.input)}


def _leave_worst(
    path: Path, name: str, samples: npt.NDArray[Any], exact: npt.NDArray[np.float32], max_error: float
) -> list[str]:
    """Take back to fp32, in the graph at `path`, the fewest nodes that bring its output within `max_error`.

    They are ranked by what each does to the output alone, so one pass over the nodes is enough; at most `MAX_KEPT` of
    them, else the graph stays as it is. Returns their names.
    """
    model = onnx.load(path)
    few = np.linspace(0, len(samples) - 1, min(FEW, len(samples))).astype(np.int64)

    def error_without(kept: Collection[str]) -> float:
        graph = without_quantisation(model, kept)
        return _error(_outputs(graph.SerializeToString(), name, samples[few]), exact[few])

    nodes = quantised_nodes(model)
    alone = {node: error_without([other for other in nodes if other != node]) for node in nodes}
    worst = sorted(nodes, key=lambda node: -alone[node])
    most = max(1, int(MAX_KEPT * len(nodes)))
    if error_without(worst[:most]) > MARGIN * max_error:
        return []
    kept = bisect.bisect_left(range(most), True, key=lambda count: error_without(worst[:count]) <= MARGIN * max_error)
    onnx.save(without_quantisation(model, worst[:kept]), path)
    return worst[:kept]


def _error(actual: npt.NDArray[np.float32], exact: npt.NDArray[np.float32]) -> float:
    return float(np.linalg.norm(actual - exact) / (np.linalg.norm(exact) + 1e-12))


def _first_convolution(path: Path) -> list[str]:
    return [node.name for node in onnx.load(path).graph.node if node.op_type == "Conv"][:1]


def _outputs(graph: Path | bytes, name: str, samples: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    settings = ort.SessionOptions()
    settings.log_severity_level = 3
    session = ort.InferenceSession(
        graph if isinstance(graph, bytes) else str(graph), settings, providers=["CPUExecutionProvider"]
    )
    return np.concatenate([session.run(None, batch)[0] for batch in _batches(name, samples)])


def _quantise_operators(
    source: Path, target: Path, name: str, samples: npt.NDArray[Any], operators: list[str], clip: bool
) -> None:
    with tempfile.TemporaryDirectory() as folder, _quiet():
        prepared = Path(folder) / "prepared.onnx"
        # Shapes only: optimising here would bake in operators of ONNX Runtime's own.
        quant_pre_process(str(source), str(prepared), skip_optimization=True, skip_symbolic_shape=True)
        quantize_static(
            str(prepared),
            str(target),
            _Samples(name, samples),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=operators,
            nodes_to_exclude=_first_convolution(prepared),
            per_channel=True,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            # The rarest activations are clipped, or their range coarsens all others (max |dp| 0.040 instead of 0.079
            # on the built-in model).
            calibrate_method=CalibrationMethod.Percentile if clip else CalibrationMethod.MinMax,
            extra_options={
                "CalibPercentile": 99.99,
                # One batch at a time, whatever the calibrator: otherwise it keeps every activation of every sample
                # (23 GB for 256 windows of 16 chunks), and takes no last batch that is smaller than the others.
                "CalibStridedMinMax": 1,
                "ActivationSymmetric": True,
                "WeightSymmetric": True,
                "QuantizeBias": False,  # TensorRT takes no int32 DequantizeLinear
                "AddQDQPairToWeight": True,
                # A product's output is rounded where the next one reads it, if that one is quantised, and not before.
                "OpTypesToExcludeOutputQuantization": operators,
                "MatMulConstBOnly": True,  # products of two activations are attention's: they lose the most
            },
        )


class _Samples(CalibrationDataReader):  # type: ignore[misc]  # ONNX Runtime has no type stubs
    """The samples in batches, of which the calibrator asks for one range after the other."""

    def __init__(self, name: str, samples: npt.NDArray[Any]) -> None:
        self._batches: list[dict[str, npt.NDArray[Any]]] = list(_batches(name, samples))
        self._range = iter(self._batches)

    def __len__(self) -> int:
        return len(self._batches)

    def set_range(self, start_index: int, end_index: int) -> None:
        """Give the batches from `start_index` up to `end_index` next."""
        self._range = iter(self._batches[start_index:end_index])

    def get_next(self) -> dict[str, npt.NDArray[Any]] | None:
        """The next batch of the range, None at its end."""
        return next(self._range, None)


def _batches(name: str, samples: npt.NDArray[Any]) -> Iterator[dict[str, npt.NDArray[Any]]]:
    """Views of up to 8 samples each, of fewer where they are large: so is all that is computed from them."""
    size = max(1, min(8, BATCH_BYTES // samples[0].nbytes))
    starts: Iterable[int] = range(0, len(samples), size)
    for begin in starts:
        yield {name: samples[begin : begin + size]}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Its advice to pre-process is for people who have not, and it prints where our JSON goes."""
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)
