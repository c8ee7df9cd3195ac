"""If a lowered model fails the golden clip, one of its graphs stays in fp32, if that is enough."""

from pathlib import Path

import openvino
import pytest
from support.bundles import make_brightness_bundle
from support.gpu_double import DoubleCompiler, double_platform

import engines.backends.tensorrt
import engines.opening
from engines.backends.tensorrt.interface import PlanRequest
from engines.bundle import Bundle, load_bundle
from engines.errors import ParityError
from engines.explain_precision import GraphPrecisionReport, explain_by_graph
from engines.opening import open_engine, open_unverified
from engines.parity import ParityReport, check_parity
from engines.protocol import Engine, EngineOptions
from streamclf.builtin_models import BUNDLES

NO_BF16 = "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


@pytest.fixture(autouse=True)
def _libraries_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines.opening, "missing_libraries", lambda backend: [])


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Collect (graph, precision) of every build, on a GPU double where an encoder in FP16 always fails."""
    built: list[tuple[str, str]] = []
    build = DoubleCompiler.build

    def record(self: DoubleCompiler, request: PlanRequest) -> tuple[bytes, bytes]:
        built.append((request.name, request.precision))
        return build(self, request)

    monkeypatch.setattr(DoubleCompiler, "build", record)
    monkeypatch.setattr(engines.backends.tensorrt, "load_platform", lambda _: double_platform(version="10.3.0"))

    def fail_encoder_in_fp16(engine: Engine, golden: object) -> ParityReport:
        if engine.precision == "fp16" and "(encoder fp32)" not in engine.description:
            raise ParityError("fails", precision=engine.precision)
        return check_parity(engine, golden)  # type: ignore[arg-type]

    monkeypatch.setattr(engines.opening, "check_parity", fail_encoder_in_fp16)
    return built


def test_auto_keeps_only_the_sensitive_graph_in_fp32(requests: list[tuple[str, str]], tmp_path: Path) -> None:
    engine = open_engine(make_brightness_bundle(tmp_path / "b"), backend="tensorrt", max_batch=4)
    assert "fp16 (encoder fp32)" in engine.description
    assert engine.precision == "fp16"
    # The head in fp16 is used twice but built once, because plans are cached by graph.
    assert requests == [
        ("encoder.onnx", "fp16"), ("head.onnx", "fp16"), ("head.onnx", "fp32"), ("encoder.onnx", "fp32"),
    ]  # fmt: skip
    engine.close()


def test_an_explicit_precision_is_not_mixed(requests: list[tuple[str, str]], tmp_path: Path) -> None:
    with pytest.raises(ParityError, match="fails"):
        open_engine(make_brightness_bundle(tmp_path / "b"), backend="tensorrt", precision="fp16", max_batch=4)
    assert len(requests) == 2


def report(max_dp: float, *, same_label: bool = True) -> ParityReport:
    return ParityReport(max_dp=max_dp, actual="a" if same_label else "b", expected="a")


@pytest.mark.parametrize(
    ("both_lowered", "head_in_fp32", "encoder_in_fp32", "fp32_graphs"),
    [
        (report(0.01), report(0.0), report(0.0), ()),
        (report(0.03), report(0.02), report(0.0), ("head",)),
        (report(float("nan")), report(float("nan")), report(0.02), ("encoder",)),
        (report(0.01, same_label=False), report(0.03), report(0.03), ("head", "encoder")),
    ],
)
def test_the_fewest_graphs_that_suffice_stay_in_fp32(
    both_lowered: ParityReport,
    head_in_fp32: ParityReport,
    encoder_in_fp32: ParityReport,
    fp32_graphs: tuple[str, ...],
) -> None:
    reports = {None: both_lowered, "head": head_in_fp32, "encoder": encoder_in_fp32}
    assert GraphPrecisionReport(precision="bf16", reports=reports).fp32_graphs == fp32_graphs


@pytest.mark.skipif(NO_BF16, reason="this CPU has no BF16")
def test_openvino_lowers_each_graph_separately() -> None:
    """With either graph in fp32 the error differs from both lowered, and `auto` does what the explanation says."""
    bundle: Bundle = load_bundle(BUNDLES / "gestures")
    found = explain_by_graph(bundle, "openvino", "bf16")
    assert len({item.max_dp for item in found.reports.values()}) == 3
    fp32 = EngineOptions(precision="fp32", max_batch=16, bank_slots=bundle.spec.chunks, threads=0)
    exact = open_unverified(bundle, "openvino", fp32)
    assert check_parity(exact, bundle.golden()).max_dp < min(item.max_dp for item in found.reports.values())
    exact.close()
    engine = open_engine(bundle, backend="openvino")
    text = {(): " bf16,", ("head",): "bf16 (head fp32)", ("encoder",): "bf16 (encoder fp32)"}.get(
        found.fp32_graphs, " fp32,"
    )
    assert text in engine.description
    engine.close()
