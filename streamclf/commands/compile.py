"""`streamclf compile`: build an engine ahead, so that no start has to wait for it, and say how good and fast it is."""

from __future__ import annotations

import importlib.util
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from engines.backends.choice import choose_backend
from engines.backends.names import Backend, Precision
from engines.bundle import Bundle
from engines.errors import BackendMissingError
from engines.explain_precision import GraphPrecisionReport, explain_by_graph
from engines.graphs.fp32_layers import store_fp32_layers
from engines.opening import open_engine
from engines.parity import TOLERANCE, check_parity
from engines.protocol import Engine
from engines.throughput import Speed, measure_speed
from streamclf.builtin_models import find_bundle
from streamclf.errors import UsageError
from streamclf.runtime.child import configure_logging

if TYPE_CHECKING:
    from engines.graphs.explain import LayerPrecisionReport
    from engines.graphs.quantise import CalibrationWindows

COMPILE_EXTRA = "streamclf[compile]"


def run_compile(
    model: str,
    *,
    backend: Backend,
    precision: Precision,
    max_batch: int,
    explain: bool,
    calibration: Path | None,
    validation: Path | None,
    output: Path | None,
    as_json: bool,
) -> int:
    """Build, check, measure, report."""
    configure_logging("info")
    if explain and precision in ("fp32", "int8"):
        raise UsageError(f"--explain --precision {precision}: it explains what fp16 or bf16 break; give one of these")
    if (calibration is None) != (output is None):
        raise UsageError("--calibration and -o belong together: a calibration set makes a new bundle; give both")
    if calibration is not None and precision != "int8":
        raise UsageError(f"--calibration --precision {precision}: it makes an INT8 bundle; give --precision int8")
    bundle = find_bundle(model)
    report: dict[str, Any] = {"model": bundle.spec.id}
    if calibration is not None and output is not None:
        bundle = _quantised(bundle, calibration, output)
        report["bundle"] = str(output)
    if explain:
        lines = _explain(report, bundle, backend, precision)
        if not as_json:  # now: what was asked for may not be there to build on this machine
            print("\n".join(lines), flush=True)
    began = time.monotonic()
    engine = open_engine(bundle, backend=backend, precision=precision, max_batch=max_batch)
    report["seconds"] = round(time.monotonic() - began, 2)
    try:
        speed = measure_speed(engine)
        report |= _measured(engine, bundle, speed)
        if engine.precision == "int8" or validation is not None:
            report["against_fp32"] = _compared(engine, speed, bundle, backend, validation)
    finally:
        engine.close()
    if as_json:
        sys.stdout.buffer.write(orjson.dumps(report) + b"\n")
    else:
        print("\n".join(_lines(report)))
    return 0


def _quantised(bundle: Bundle, calibration: Path, output: Path) -> Bundle:
    _need("onnx", "onnxruntime")
    from engines.graphs.quantise import load_windows, quantise_bundle

    return quantise_bundle(bundle, load_windows(calibration, bundle.spec).frames, output)


def _explain(report: dict[str, Any], bundle: Bundle, backend: Backend, precision: Precision) -> list[str]:
    """What lowering breaks, into the report and in words: by graph where OpenVINO is to run it, else by layer.

    With `auto` it is the precision that `auto` would take: BF16 on a CPU that has it.
    """
    runs_on = choose_backend().order[:1] if backend == "auto" else (backend,)
    if runs_on == ("openvino",) and precision != "fp16":
        try:
            parts = explain_by_graph(bundle, "openvino", "bf16")
        except BackendMissingError:
            if precision == "bf16":
                raise
        else:
            report["explanation"] = {
                "precision": "bf16",
                "max_dp": {part or "none": _finite(found.max_dp) for part, found in parts.reports.items()},
                "keep_fp32": list(parts.fp32_graphs),
            }
            return _parts_lines(parts)
    found = _explained(bundle, "bf16" if precision == "bf16" else "fp16")
    report["explanation"] = {
        **asdict(found),
        "max_dp_before": _finite(found.max_dp_before),
        "sensitive_layers": [item.describe() for item in found.sensitive_layers],
    }
    return _explanation_lines(report["explanation"])


def _explained(bundle: Bundle, precision: str) -> LayerPrecisionReport:
    """Find the layers that must stay in FP32, and let every later build on this machine keep them so."""
    _need("onnx", "onnxruntime")
    from engines.graphs.explain import explain_by_layer

    found = explain_by_layer(bundle, precision, on_progress=lambda text: print(text, file=sys.stderr))
    store_fp32_layers(bundle, precision, found.fp32_layers)
    return found


def _need(*libraries: str) -> None:
    missing = [name for name in libraries if importlib.util.find_spec(name) is None]
    if missing:
        raise BackendMissingError(f"{' and '.join(missing)} not installed; pip install '{COMPILE_EXTRA}'")


def _measured(engine: Engine, bundle: Bundle, speed: Speed) -> dict[str, Any]:
    parity = check_parity(engine, bundle.golden())
    return {
        "engine": engine.description,
        "precision": engine.precision,
        "max_batch": engine.max_batch,
        "golden": {"max_dp": parity.max_dp, "allowed": TOLERANCE[engine.precision]},
        "encodes_per_s": round(speed.encodes_per_s, 1),
        "windows_per_s": round(speed.windows_per_s, 1),
    }


def _compared(
    engine: Engine, speed: Speed, bundle: Bundle, backend: Backend, validation: Path | None
) -> dict[str, Any]:
    """Accuracy lost beside speed gained, on the same backend in FP32."""
    exact = open_engine(bundle, backend=backend, precision="fp32", max_batch=engine.max_batch)
    try:
        base = measure_speed(exact)
        result: dict[str, Any] = {
            "encode_speedup": round(speed.encodes_per_s / base.encodes_per_s, 2),
            "classify_speedup": round(speed.windows_per_s / base.windows_per_s, 2),
        }
        if validation is not None:
            _need("onnx", "onnxruntime")
            from engines.graphs.quantise import load_windows

            result |= _accuracy(engine, exact, load_windows(validation, bundle.spec))
        return result
    finally:
        exact.close()


def _accuracy(engine: Engine, exact: Engine, windows: CalibrationWindows) -> dict[str, Any]:
    lowered, full = (np.stack([_classify(it, window) for window in windows.frames]) for it in (engine, exact))
    result: dict[str, Any] = {
        "windows": len(windows.frames),
        "max_dp": float(np.abs(lowered - full).max()),
        "same_label": float((lowered.argmax(1) == full.argmax(1)).mean()),
    }
    if windows.labels is not None:
        result["accuracy"] = float((lowered.argmax(1) == windows.labels).mean())
        result["accuracy_fp32"] = float((full.argmax(1) == windows.labels).mean())
    return result


def _classify(engine: Engine, window: Any) -> Any:
    """(T, t, H, W, 3) uint8 -> (K,)."""
    slots = np.arange(len(window), dtype=np.int32)
    for begin in range(0, len(window), engine.max_batch):
        part = slice(begin, begin + engine.max_batch)
        engine.encode(window[part], slots[part])
    return engine.classify(slots[None])[0]


def _finite(value: float) -> float | None:
    """JSON has no NaN."""
    return value if np.isfinite(value) else None


def _parts_lines(found: GraphPrecisionReport) -> list[str]:
    limit = TOLERANCE[found.precision]
    lines = [f"{found.precision} on openvino; golden clip, of which {limit:.0e} is allowed:"]
    for part, report in found.reports.items():
        what = "both graphs lowered" if part is None else f"the {part} kept in fp32"
        label = "" if report.actual == report.expected else f", and another label ({report.actual})"
        lines.append(f"  {what}: max |dp| {report.max_dp:.1e}{label}")
    kept = " and ".join(f"the {part}" for part in found.fp32_graphs) or "nothing"
    return [*lines, f"  --precision auto keeps {kept} in fp32"]


def _explanation_lines(found: dict[str, Any]) -> list[str]:
    before = found["max_dp_before"]
    lines = [
        f"{found['precision']}: with all {found['layers']} layers lowered max |dp| is "
        f"{'not a number' if before is None else f'{before:.1e}'} (simulated, as TensorRT would)"
    ]
    lines += [f"  keep in fp32: {item}" for item in found["sensitive_layers"]]
    if found["sensitive_layers"]:
        lines.append(f"  with these in fp32: {found['max_dp_after']:.1e}; kept for later builds on this machine")
    return lines


def _lines(report: dict[str, Any]) -> list[str]:
    lines = [
        f"{report['model']} on {report['engine']}",
        f"  built or loaded in {report['seconds']:.1f} s; batches up to {report['max_batch']}",
        f"  golden clip: max |dp| {report['golden']['max_dp']:.1e}, allowed {report['golden']['allowed']:.0e}",
        f"  {report['encodes_per_s']:,.0f} encodes/s, {report['windows_per_s']:,.0f} windows/s in full batches",
    ]
    if against := report.get("against_fp32"):
        lines.append(
            f"  against fp32: encode {against['encode_speedup']:.2f} times, classify "
            f"{against['classify_speedup']:.2f} times as fast"
        )
        if "windows" in against:
            lines.append(f"  on {against['windows']} windows: same label {against['same_label']:.1%}")
        if "accuracy" in against:
            lines.append(f"  accuracy {against['accuracy']:.1%}, fp32 {against['accuracy_fp32']:.1%}")
    if "bundle" in report:
        lines.append(f"  written: {report['bundle']}")
    return lines
