"""Run `streamclf compile`: build an engine before a service needs it, check its accuracy and measure its speed."""

from __future__ import annotations

import importlib.util
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from engines.activation import present_labels
from engines.backends.choice import choose_backend
from engines.backends.names import Backend, Precision
from engines.bundle import Bundle, ModelSpec
from engines.errors import BackendMissingError
from engines.explain_precision import GraphPrecisionReport, explain_by_graph
from engines.graphs.fp32_layers import store_fp32_layers
from engines.opening import open_engine
from engines.parity import TOLERANCE, check_parity
from engines.printable import printable
from engines.protocol import Engine
from engines.throughput import Speed, measure_speed
from engines.triton_repository import write_repository
from streamclf.builtin_models import find_bundle
from streamclf.errors import UsageError
from streamclf.runtime.logs import configure_logging

if TYPE_CHECKING:
    from engines.graphs.explain import LayerPrecisionReport
    from engines.graphs.quantise import CalibrationWindows


def run_compile(
    model: str,
    *,
    backend: Backend,
    precision: Precision,
    max_batch: int,
    device: int | None = None,
    explain: bool,
    calibration: Path | None,
    validation: Path | None,
    output: Path | None,
    triton: Path | None = None,
    as_json: bool,
) -> int:
    """Build, check and measure the engine, print the report and return the exit code.

    Raises `UsageError` for options that do not fit together, and `EngineError` if the engine cannot be built or fails
    its golden clip.
    """
    configure_logging("compile", "info")
    if explain and precision in ("fp32", "int8"):
        raise UsageError(f"--explain --precision {precision}: --explain is for fp16 and bf16; give one of these")
    if (calibration is None) != (output is None):
        raise UsageError("--calibration and -o belong together: calibration writes a new bundle; give both")
    if calibration is not None and precision != "int8":
        raise UsageError(f"--calibration --precision {precision}: calibration is for INT8; give --precision int8")
    bundle = find_bundle(model)
    report: dict[str, Any] = {"model": bundle.spec.id}
    if triton is not None:
        models = write_repository(bundle, triton, max_batch=max_batch)
        print(printable(f"{bundle.spec.id}: written: {', '.join(map(str, models))}"))
        return 0
    if calibration is not None and output is not None:
        bundle = _quantise(bundle, calibration, output)
        report["bundle"] = str(output)
    if explain:
        lines = _explain(report, bundle, backend, precision)
        if not as_json:  # before the build, which may not be possible on this machine
            print("\n".join(map(printable, lines)), flush=True)
    began = time.monotonic()
    engine = open_engine(bundle, backend=backend, precision=precision, max_batch=max_batch, device=device)
    report["seconds"] = round(time.monotonic() - began, 2)
    try:
        speed = measure_speed(engine)
        report |= _engine_figures(engine, bundle, speed)
        if engine.precision == "int8" or validation is not None:
            report["against_fp32"] = _compare_with_fp32(engine, speed, bundle, backend, device, validation)
    finally:
        engine.close()
    if as_json:
        sys.stdout.buffer.write(orjson.dumps(report) + b"\n")
    else:
        print("\n".join(map(printable, _format_report(report))))
    return 0


def _quantise(bundle: Bundle, calibration: Path, output: Path) -> Bundle:
    """Write the bundle with INT8 graphs to the directory `output`."""
    _require("onnx", "onnxruntime")
    from engines.graphs.quantise import load_windows, quantise_bundle

    return quantise_bundle(bundle, load_windows(calibration, bundle.spec).frames, output)


def _explain(report: dict[str, Any], bundle: Bundle, backend: Backend, precision: Precision) -> list[str]:
    """Find what loses accuracy in fp16 or bf16; add it to the report, and return it as lines of text.

    For OpenVINO the smallest unit is a graph, otherwise a layer. With the precision `auto`, this explains the precision
    that `auto` would choose: BF16 on a CPU that has it.
    """
    backends = choose_backend().order[:1] if backend == "auto" else (backend,)
    if backends == ("openvino",) and precision != "fp16":
        try:
            by_graph = explain_by_graph(bundle, "openvino", "bf16")
        except BackendMissingError:
            if precision == "bf16":
                raise
        else:
            report["explanation"] = {
                "precision": "bf16",
                "max_dp": {graph or "none": _finite(parity.max_dp) for graph, parity in by_graph.reports.items()},
                "keep_fp32": list(by_graph.fp32_graphs),
            }
            return _format_graphs(by_graph)
    by_layer = _explain_by_layer(bundle, "bf16" if precision == "bf16" else "fp16")
    report["explanation"] = {
        "precision": by_layer.precision,
        "max_dp_before": _finite(by_layer.max_dp_before),
        "max_dp_after": by_layer.max_dp_after,
        "layers": by_layer.layers,
        "guilty": [layer.describe() for layer in by_layer.sensitive_layers],
    }
    return _format_layers(report["explanation"])


def _explain_by_layer(bundle: Bundle, precision: str) -> LayerPrecisionReport:
    """Find the layers that must stay in FP32, and store them for every later build on this machine."""
    _require("onnx", "onnxruntime")
    from engines.graphs.explain import explain_by_layer

    report = explain_by_layer(bundle, precision, on_progress=lambda text: print(printable(text), file=sys.stderr))
    store_fp32_layers(bundle, precision, report.fp32_layers)
    return report


def _require(*libraries: str) -> None:
    """Raise `BackendMissingError` if one of the libraries is not installed."""
    missing = [name for name in libraries if importlib.util.find_spec(name) is None]
    if missing:
        raise BackendMissingError(f"{' and '.join(missing)} not installed; pip install {' '.join(missing)}")


def _engine_figures(engine: Engine, bundle: Bundle, speed: Speed) -> dict[str, Any]:
    parity = check_parity(engine, bundle.golden())
    return {
        "engine": engine.description,
        "precision": engine.precision,
        "max_batch": engine.max_batch,
        "golden": {"max_dp": parity.max_dp, "allowed": TOLERANCE[engine.precision]},
        "encodes_per_s": round(speed.encodes_per_s, 1),
        "windows_per_s": round(speed.windows_per_s, 1),
    }


def _compare_with_fp32(
    engine: Engine, speed: Speed, bundle: Bundle, backend: Backend, device: int | None, validation: Path | None
) -> dict[str, Any]:
    """Compare speed, and accuracy if there is a validation set, with the same backend in FP32."""
    exact = open_engine(bundle, backend=backend, precision="fp32", max_batch=engine.max_batch, device=device)
    try:
        base = measure_speed(exact)
        result: dict[str, Any] = {
            "encode_speedup": round(speed.encodes_per_s / base.encodes_per_s, 2),
            "classify_speedup": round(speed.windows_per_s / base.windows_per_s, 2),
        }
        if validation is not None:
            _require("onnx", "onnxruntime")
            from engines.graphs.quantise import load_windows

            result |= _accuracy(engine, exact, load_windows(validation, bundle.spec))
        return result
    finally:
        exact.close()


def _accuracy(engine: Engine, exact: Engine, windows: CalibrationWindows) -> dict[str, Any]:
    """Compare the probabilities of both engines, and their accuracy if the windows have labels."""
    lowered, full = (np.stack([_classify(each, window) for window in windows.frames]) for each in (engine, exact))
    result: dict[str, Any] = {
        "windows": len(windows.frames),
        "max_dp": float(np.abs(lowered - full).max()),
    }
    # (N, K): the labels that each engine finds in a window, and those that it has.
    by_engine = [_found(engine.spec, rows) for rows in (lowered, full)]
    result["same_label"] = float((by_engine[0] == by_engine[1]).all(axis=1).mean())
    if windows.labels is not None:
        truth = windows.labels if windows.labels.ndim > 1 else np.eye(full.shape[1])[windows.labels]
        for key, found in zip(("accuracy", "accuracy_fp32"), by_engine, strict=True):
            result[key] = float((found == truth).all(axis=1).mean())
    return result


def _found(spec: ModelSpec, probabilities: Any) -> Any:
    """Return (N, K) of zeros and ones: the labels that are present in each window."""
    found = np.zeros(probabilities.shape, np.int64)
    for row, values in zip(found, probabilities, strict=True):
        row[present_labels(spec, values)] = 1
    return found


def _classify(engine: Engine, window: Any) -> Any:
    """Classify one window: (T, t, H, W, 3) uint8 RGB -> (K,) float32 probabilities."""
    slots = np.arange(len(window), dtype=np.int32)
    for begin in range(0, len(window), engine.max_batch):
        part = slice(begin, begin + engine.max_batch)
        engine.encode(window[part], slots[part])
    return engine.classify(slots[None])[0]


def _finite(value: float) -> float | None:
    """Replace NaN and infinity, which JSON does not have, by None."""
    return value if np.isfinite(value) else None


def _format_graphs(report: GraphPrecisionReport) -> list[str]:
    limit = TOLERANCE[report.precision]
    lines = [f"{report.precision} on openvino; golden clip, allowed max |dp| {limit:.0e}:"]
    for graph, parity in report.reports.items():
        setting = f"both graphs in {report.precision}" if graph is None else f"{graph} in fp32"
        label = "" if parity.actual == parity.expected else f", and another label ({parity.actual})"
        lines.append(f"  {setting}: max |dp| {parity.max_dp:.1e}{label}")
    kept = " and ".join(f"the {graph}" for graph in report.fp32_graphs) or "no graph"
    return [*lines, f"  --precision auto keeps {kept} in fp32"]


def _format_layers(explanation: dict[str, Any]) -> list[str]:
    before = explanation["max_dp_before"]
    lines = [
        f"{explanation['precision']}: with all {explanation['layers']} layers in it, max |dp| is "
        f"{'not a number' if before is None else f'{before:.1e}'} (simulated as TensorRT computes)"
    ]
    lines += [f"  keep in fp32: {layer}" for layer in explanation["guilty"]]
    if explanation["guilty"]:
        lines.append(
            f"  with these in fp32: max |dp| {explanation['max_dp_after']:.1e}; later builds here keep them so"
        )
    return lines


def _format_report(report: dict[str, Any]) -> list[str]:
    lines = [
        f"{report['model']} on {report['engine']}",
        f"  built or loaded in {report['seconds']:.1f} s; batches up to {report['max_batch']}",
        f"  golden clip: max |dp| {report['golden']['max_dp']:.1e}, allowed {report['golden']['allowed']:.0e}",
        f"  {report['encodes_per_s']:,.0f} encodes/s, {report['windows_per_s']:,.0f} windows/s in full batches",
    ]
    if against := report.get("against_fp32"):
        lines.append(
            f"  compared with fp32: encode {against['encode_speedup']:.2f} times, classify "
            f"{against['classify_speedup']:.2f} times as fast"
        )
        if "windows" in against:
            lines.append(f"  on {against['windows']} windows: same label as fp32 in {against['same_label']:.1%}")
        if "accuracy" in against:
            lines.append(f"  accuracy {against['accuracy']:.1%}, fp32 {against['accuracy_fp32']:.1%}")
    if "bundle" in report:
        lines.append(f"  written: {report['bundle']}")
    return lines
