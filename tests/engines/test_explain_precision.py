"""A model whose lowering fails the golden clip keeps one of its graphs in fp32, if that is enough."""

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
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAMCLF_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(engines.opening, "missing_libraries", lambda backend: [])


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """(graph, precision) of every build on a GPU whose FP16 ruins whatever encoder it is used for."""
    built: list[tuple[str, str]] = []
    build = DoubleCompiler.build

    def note(self: DoubleCompiler, request: PlanRequest) -> tuple[bytes, bytes]:
        built.append((request.name, request.precision))
        return build(self, request)

    monkeypatch.setattr(DoubleCompiler, "build", note)
    monkeypatch.setattr(engines.backends.tensorrt, "load_platform", lambda: double_platform(version="10.3.0"))

    def refuse(engine: Engine, golden: object) -> ParityReport:
        if engine.precision == "fp16" and "(encoder fp32)" not in engine.description:
            raise ParityError("collapsed", precision=engine.precision)
        return check_parity(engine, golden)  # type: ignore[arg-type]

    monkeypatch.setattr(engines.opening, "check_parity", refuse)
    return built


def test_auto_keeps_only_the_graph_that_breaks(requests: list[tuple[str, str]], tmp_path: Path) -> None:
    engine = open_engine(make_brightness_bundle(tmp_path / "b"), backend="tensorrt", max_batch=4)
    assert "fp16 (encoder fp32)" in engine.description
    assert engine.precision == "fp16"
    # The head that is in fp16 both times is built once: plans are kept by graph.
    assert requests == [
        ("encoder.onnx", "fp16"), ("head.onnx", "fp16"), ("head.onnx", "fp32"), ("encoder.onnx", "fp32"),
    ]  # fmt: skip
    engine.close()


def test_a_precision_that_was_asked_for_is_not_mixed(requests: list[tuple[str, str]], tmp_path: Path) -> None:
    with pytest.raises(ParityError, match="collapsed"):
        open_engine(make_brightness_bundle(tmp_path / "b"), backend="tensorrt", precision="fp16", max_batch=4)
    assert len(requests) == 2


def report(max_dp: float, *, right: bool = True) -> ParityReport:
    return ParityReport(max_dp=max_dp, actual="a" if right else "b", expected="a")


@pytest.mark.parametrize(
    ("whole", "head", "encoder", "kept"),
    [
        (report(0.01), report(0.0), report(0.0), ()),
        (report(0.03), report(0.02), report(0.0), ("head",)),
        (report(float("nan")), report(float("nan")), report(0.02), ("encoder",)),
        (report(0.01, right=False), report(0.03), report(0.03), ("head", "encoder")),
    ],
)
def test_what_is_kept(whole: ParityReport, head: ParityReport, encoder: ParityReport, kept: tuple[str, ...]) -> None:
    reports = {None: whole, "head": head, "encoder": encoder}
    assert GraphPrecisionReport(precision="bf16", reports=reports).fp32_graphs == kept


@pytest.mark.skipif(NO_BF16, reason="this CPU has no BF16")
def test_openvino_lowers_graph_by_graph() -> None:
    """Either graph alone in fp32 gives other numbers than both lowered; the explanation is what auto does."""
    bundle: Bundle = load_bundle(BUNDLES / "gestures")
    found = explain_by_graph(bundle, "openvino", "bf16")
    assert len({item.max_dp for item in found.reports.values()}) == 3
    whole = EngineOptions(precision="fp32", max_batch=16, bank_slots=16, threads=0)
    exact = open_unverified(bundle, "openvino", whole)
    assert check_parity(exact, bundle.golden()).max_dp < min(item.max_dp for item in found.reports.values())
    exact.close()
    engine = open_engine(bundle, backend="openvino")
    said = {(): " bf16,", ("head",): "bf16 (head fp32)", ("encoder",): "bf16 (encoder fp32)"}.get(
        found.fp32_graphs, " fp32,"
    )
    assert said in engine.description
    engine.close()
