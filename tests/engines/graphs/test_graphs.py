"""Graphs as each compiler takes them: they compute what the exported graph computes, and the lint knows why not."""

import itertools
import logging
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper
from support.bundles import make_brightness_bundle
from support.gpu_double import DoubleCompiler, double_platform

import engines.backends.tensorrt
import engines.opening
from engines.bundle import INT8_ENCODER_FILE, Bundle, load_bundle, write_spec
from engines.errors import BackendMissingError, BundleError, CompileError, ParityError
from engines.graphs.explain import explain_by_layer, find_first_harmful
from engines.graphs.fp32_layers import load_fp32_layers, store_fp32_layers
from engines.graphs.lint import check_graph, lint
from engines.graphs.lower import FP32_OPERATORS, lower, lowerable_nodes, round_array, simulate_lowering
from engines.graphs.operators import PROFILES, supported
from engines.graphs.profiles import Profile, prepare
from engines.graphs.qdq import quantised_nodes
from engines.graphs.quantise import _quantise, load_windows, quantise_bundle
from engines.graphs.surgery import opset_of, parse_model, tensor_types
from engines.opening import open_engine
from engines.parity import TOLERANCE
from streamclf.builtin_models import BUNDLES


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAMCLF_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def shipped() -> Bundle:
    return load_bundle(BUNDLES / "camera-events")


def run(data: bytes, array: np.ndarray, name: str) -> np.ndarray:
    session = ort.InferenceSession(data, providers=["CPUExecutionProvider"])
    return session.run(None, {name: array})[0]


def inputs_of(bundle: Bundle) -> dict[str, tuple[bytes, str, np.ndarray]]:
    frames = np.concatenate(
        [bundle.golden().frames, np.random.default_rng(0).integers(0, 256, (3, *bundle.spec.chunk_shape), np.uint8)]
    )
    encoder, head = bundle.encoder_path.read_bytes(), bundle.head_path.read_bytes()
    features = run(encoder, frames[: bundle.spec.chunks], "frames")[None]
    return {"encoder": (encoder, "frames", frames), "head": (head, "features", features)}


@pytest.mark.parametrize("part", ["encoder", "head"])
@pytest.mark.parametrize("profile", PROFILES)
def test_every_profile_computes_the_same_in_fp32(shipped: Bundle, profile: Profile, part: str) -> None:
    data, name, array = inputs_of(shipped)[part]
    prepared = prepare(data, name=part, profile=profile, precision="fp32")
    expected = run(data, array, name)
    actual = run(prepared.onnx, array, name)
    assert np.abs(actual - expected).max() / np.abs(expected).max() < 1e-5
    model = onnx.load_model_from_string(prepared.onnx)
    assert model.ir_version <= (10 if profile in ("trt10", "trt11") else 8)
    assert opset_of(model) == (16 if profile == "trt85" else opset_of(onnx.load_model_from_string(data)))
    assert ("LayerNormalization" in {node.op_type for node in model.graph.node}) == (profile != "trt85")


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.parametrize("part", ["encoder", "head"])
def test_the_typed_graph_keeps_its_statistics_in_fp32(shipped: Bundle, part: str, precision: str) -> None:
    data, _, _ = inputs_of(shipped)[part]
    prepared = prepare(data, name=part, profile="trt11", precision=precision)
    assert prepared.strongly_typed
    model = onnx.load_model_from_string(prepared.onnx)
    types = tensor_types(model)
    low = TensorProto.FLOAT16 if precision == "fp16" else TensorProto.BFLOAT16
    for node in model.graph.node:
        if node.op_type in FP32_OPERATORS:
            assert types[node.input[0]] in (TensorProto.FLOAT, TensorProto.INT64), node.name
        if node.op_type in ("MatMul", "Gemm", "Softmax") or (node.op_type == "Conv" and precision == "fp16"):
            assert types[node.input[0]] == types[node.output[0]] == low, node.name
    before = onnx.load_model_from_string(data).graph
    for now, then in ((model.graph.input, before.input), (model.graph.output, before.output)):
        assert [item.type.tensor_type.elem_type for item in now] == [item.type.tensor_type.elem_type for item in then]


@pytest.mark.parametrize("part", ["encoder", "head"])
def test_the_typed_graph_computes_about_the_same(shipped: Bundle, part: str) -> None:
    data, name, array = inputs_of(shipped)[part]
    expected = run(data, array, name)
    actual = run(prepare(data, name=part, profile="trt10", precision="fp16").onnx, array, name)
    assert 0 < np.abs(actual - expected).max() / np.abs(expected).max() < 2e-2


def test_without_onnx_only_what_needs_no_change_is_prepared(shipped: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    data = shipped.encoder_path.read_bytes()
    assert prepare(data, name="e", profile="trt86", precision="fp16").onnx == data
    for profile in ("trt85", "trt10"):
        with pytest.raises(BackendMissingError, match=r"needs onnx; pip install 'streamclf\[tensorrt\]'"):
            prepare(data, name="e", profile=profile, precision="fp16")  # type: ignore[arg-type]


def graph_of(nodes: list[onnx.NodeProto], *, opset: int = 17, shape: tuple[object, ...] = ("N", 8), **more: object):
    constants = {"one": np.ones(8, np.float32), **more}
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(shape))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, list(shape))],
        [numpy_helper.from_array(np.asarray(value), key) for key, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def texts(model: onnx.ModelProto, profile: str) -> str:
    return "; ".join(f"{finding.level}: {finding.text}" for finding in lint(model, profile))


def test_the_lint_names_what_a_generation_lacks() -> None:
    norm = graph_of([helper.make_node("LayerNormalization", ["x", "one"], ["y"])])
    assert texts(norm, "trt85") == "error: opset 17, at most 16; error: operator LayerNormalization (1 of them)"
    assert texts(norm, "trt86") == ""
    gelu = graph_of([helper.make_node("Gelu", ["x"], ["y"])], opset=20)
    assert "error: operator Gelu" in texts(gelu, "trt86")
    assert texts(gelu, "trt10") == ""
    with pytest.raises(CompileError, match=r"g\.onnx: not for TensorRT \(trt86\): opset 20, at most 17; operator Gelu"):
        check_graph(gelu.SerializeToString(), name="g.onnx", profile="trt86")
    reduce = graph_of([helper.make_node("ReduceMean", ["x", "axes"], ["y"])], opset=18, axes=np.array([1]))
    assert "error: ReduceMean with axes as an input" in texts(reduce, "trt86")


def test_the_lint_wants_the_batch_alone_dynamic() -> None:
    relu = [helper.make_node("Relu", ["x"], ["y"])]
    assert "the first axis alone must be dynamic" in texts(graph_of(relu, shape=("N", "M")), "trt10")
    assert "the first axis alone must be dynamic" in texts(graph_of(relu, shape=(1, 8)), "trt10")
    assert texts(graph_of(relu), "trt10") == ""


def test_the_lint_refuses_quantisation_that_is_not_symmetric() -> None:
    def quantised(zero: np.generic) -> onnx.ModelProto:
        names = ["scale", "zero"]
        nodes = [
            helper.make_node("QuantizeLinear", ["x", *names], ["q"]),
            helper.make_node("DequantizeLinear", ["q", *names], ["y"]),
        ]
        return graph_of(nodes, scale=np.float32(0.1), zero=zero)

    assert "only symmetric int8" in texts(quantised(np.uint8(0)), "trt86")
    assert "only symmetric int8" in texts(quantised(np.int8(3)), "trt86")
    assert texts(quantised(np.int8(0)), "trt86") == ""


def attention(*, scale_after: bool, head: int) -> onnx.ModelProto:
    middle = [helper.make_node("Mul", ["p", "scale"], ["s"])] if scale_after else []
    nodes = [
        helper.make_node("Transpose", ["x"], ["k"], perm=[0, 1, 3, 2]),
        helper.make_node("MatMul", ["x", "k"], ["p"]),
        *middle,
        helper.make_node("Softmax", ["s" if scale_after else "p"], ["a"], axis=-1),
        helper.make_node("MatMul", ["a", "x"], ["y"]),
    ]
    return graph_of(nodes, shape=("N", 2, 4, head), scale=np.float32(0.1))


def test_the_lint_says_which_attentions_are_not_fused() -> None:
    assert texts(attention(scale_after=False, head=32), "trt86") == ""
    assert "scale Q before it" in texts(attention(scale_after=True, head=32), "trt86")
    assert "head size 12" in texts(attention(scale_after=False, head=12), "trt86")
    assert "not in FP16 or BF16" in texts(attention(scale_after=False, head=32), "trt11")
    assert "from 8.6 on" in texts(attention(scale_after=False, head=32), "trt85")


def test_generations_only_gain_operators() -> None:
    lists = [supported(profile) for profile in PROFILES]
    assert all(before < after for before, after in itertools.pairwise(lists))


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_the_simulation_rounds_as_the_lowered_graph_would(shipped: Bundle, precision: str) -> None:
    """Casts are NumPy's own definition of rounding: what comes out of a lowered node is a value of that type."""
    model = parse_model(shipped.head_path.read_bytes(), "head")
    names = lowerable_nodes(model, precision)
    last = next(node for node in model.graph.node if node.output[0] == "logits")
    assert last.name in names
    simulate_lowering(model, precision, names)
    _, name, array = inputs_of(shipped)["head"]
    logits = run(model.SerializeToString(), array, name)
    np.testing.assert_array_equal(logits, round_array(logits, precision))
    assert np.abs(logits - run(shipped.head_path.read_bytes(), array, name)).max() > 0


def test_lowering_casts_each_tensor_once(shipped: Bundle) -> None:
    model = parse_model(shipped.encoder_path.read_bytes(), "encoder")
    lower(model, "fp16")
    casts = [(node.input[0], node.attribute[0].i) for node in model.graph.node if node.op_type == "Cast"]
    assert len(casts) == len(set(casts))


def overflowing(path: Path, source: Bundle, part: str, after: str) -> Bundle:
    """The bundle with a detour through 1e6 times the value behind the first node of the kind `after`."""
    path.mkdir()
    for name in source.spec.files:
        (path / name).write_bytes((source.path / name).read_bytes())
    model = onnx.load(path / f"{part}.onnx")
    graph = model.graph
    index = next(i for i, node in enumerate(graph.node) if node.op_type == after)
    output = graph.node[index].output[0]
    graph.node[index].output[0] = "detour_in"
    graph.initializer.extend(
        [numpy_helper.from_array(np.float32(2.0**20), "up"), numpy_helper.from_array(np.float32(2.0**-20), "down")]
    )
    graph.node.insert(index + 1, helper.make_node("Mul", ["detour_in", "up"], ["detour"], name="blow_up"))
    graph.node.insert(index + 2, helper.make_node("Mul", ["detour", "down"], [output], name="shrink_back"))
    onnx.save(model, path / f"{part}.onnx")
    return write_spec(path, source.spec.model_dump(exclude={"files"}))


@pytest.mark.parametrize(("part", "after"), [("encoder", "Softmax"), ("head", "Erf")])
def test_the_layers_of_an_overflow_are_found(tmp_path: Path, shipped: Bundle, part: str, after: str) -> None:
    """Among all layers of a real model the two that leave FP16's range, and no others."""
    bundle = overflowing(tmp_path / "b", shipped, part, after)
    progress: list[str] = []
    explanation = explain_by_layer(bundle, "fp16", on_progress=progress.append)
    assert not explanation.max_dp_before <= 2e-2
    assert explanation.max_dp_after < 2e-2
    assert explanation.layers > 100
    assert {(item.part, item.node) for item in explanation.sensitive_layers} == {
        (part, "blow_up"),
        (part, "shrink_back"),
    }
    blown = next(item for item in explanation.sensitive_layers if item.node == "blow_up")
    assert blown.largest > 65504
    assert "over the largest number there is, 65504" in blown.describe()
    assert len(progress) == 2
    if part == "head":
        assert explain_by_layer(bundle, "bf16").sensitive_layers == ()  # its range is FP32's


def test_a_healthy_model_has_no_guilty_layers(shipped: Bundle) -> None:
    assert explain_by_layer(shipped, "fp16").sensitive_layers == ()


def test_a_model_that_collapses_throughout_is_refused(tmp_path: Path) -> None:
    """Logits of the brightness model are 0.05 (mean - 128): with a sharper weight FP16 features are too coarse."""
    bundle = make_brightness_bundle(tmp_path / "b")
    golden = bundle.golden()
    np.savez(bundle.path / "golden.npz", frames=golden.frames, logits=golden.logits + np.float32([0, 9]))
    broken = write_spec(bundle.path, bundle.spec.model_dump(exclude={"files"}))
    with pytest.raises(ParityError, match=r"brightness@1: collapses in fp16 .* layers in fp32; use fp32 or bf16"):
        explain_by_layer(broken, "fp16")


@pytest.mark.parametrize("culprit", range(1, 12))
def test_bisection_finds_the_first_culprit(culprit: int) -> None:
    trials = []

    def collapses(layers: object) -> bool:
        trials.append(layers)
        return ("encoder", f"n{culprit}") in layers  # type: ignore[operator]

    layers = [("encoder", f"n{i}") for i in range(1, 12)]
    assert find_first_harmful(layers, collapses) == ("encoder", f"n{culprit}")
    assert len(trials) <= 4


@pytest.mark.parametrize("version", ["8.5.3.1", "10.3.0"])
def test_what_was_found_guilty_stays_in_fp32(
    tmp_path: Path, shipped: Bundle, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    bundle = overflowing(tmp_path / "b", shipped, "encoder", "Softmax")
    store_fp32_layers(bundle, "fp16", {"encoder": ("blow_up", "shrink_back"), "head": ()})
    assert set(load_fp32_layers(bundle, "fp16")["encoder"]) == {"blow_up", "shrink_back"}
    assert load_fp32_layers(bundle, "bf16") == {"encoder": (), "head": ()}
    platform = double_platform(version=version)
    monkeypatch.setattr(engines.backends.tensorrt, "load_platform", lambda: platform)
    monkeypatch.setattr(engines.opening, "missing_libraries", lambda backend: [])
    engine = open_engine(bundle, backend="tensorrt", precision="fp16", max_batch=8)
    compiler = platform.compiler
    assert isinstance(compiler, DoubleCompiler)
    request = compiler.requests[0]
    model = onnx.load_model_from_string(request.onnx)
    types = tensor_types(model)
    if request.strongly_typed:
        assert types["detour"] == TensorProto.FLOAT
    else:
        assert {"blow_up", "shrink_back"} <= set(request.keep_fp32)
    engine.close()


@pytest.fixture(scope="module")
def quantised(tmp_path_factory: pytest.TempPathFactory, shipped: Bundle) -> Bundle:
    frames = shipped.golden().frames
    random = np.random.default_rng(0)
    noise = (0, 9, 40)
    windows = np.stack([np.clip(frames + random.integers(-s, s + 1, frames.shape), 0, 255) for s in noise])
    return quantise_bundle(shipped, windows.astype(np.uint8), tmp_path_factory.mktemp("int8") / "b")


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime", "tensorrt"])
def test_one_quantised_graph_for_every_backend(
    quantised: Bundle, backend: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """They take it and agree on it. Noisy copies of one window are a poor calibration set, so the gate is wider."""
    monkeypatch.setitem(TOLERANCE, "int8", 0.15)
    caplog.set_level(logging.INFO, "engine")
    monkeypatch.setattr(engines.backends.tensorrt, "load_platform", double_platform)
    monkeypatch.setattr(engines.opening, "missing_libraries", lambda name: [])
    engine = open_engine(quantised, backend=backend, precision="int8", max_batch=8)  # type: ignore[arg-type]
    assert engine.precision == "int8"
    engine.close()


@pytest.mark.parametrize("profile", PROFILES)
def test_the_quantised_graph_is_what_tensorrt_takes(quantised: Bundle, profile: Profile) -> None:
    data = (quantised.path / INT8_ENCODER_FILE).read_bytes()
    prepared = prepare(data, name="encoder", profile=profile, precision="int8")
    kinds = [node.op_type for node in onnx.load_model_from_string(prepared.onnx).graph.node]
    assert kinds.count("QuantizeLinear") > 10


def test_quantising_leaves_the_exact_graphs_alone(quantised: Bundle, shipped: Bundle) -> None:
    for name, digest in shipped.spec.files.items():
        assert quantised.spec.files[name] == digest
    with pytest.raises(BundleError, match="exists already"):
        quantise_bundle(shipped, shipped.golden().frames[None], quantised.path)


def test_a_last_batch_of_samples_may_be_smaller(tmp_path: Path) -> None:
    """Nine samples are a batch of eight and one of one."""
    random = np.random.default_rng(0)
    weight = random.standard_normal((8, 8)).astype(np.float32)
    onnx.save(graph_of([helper.make_node("MatMul", ["x", "w"], ["y"], name="m")], w=weight), tmp_path / "g.onnx")
    _quantise(tmp_path / "g.onnx", tmp_path / "q.onnx", "x", random.standard_normal((9, 8)).astype(np.float32), 0.04)
    assert quantised_nodes(onnx.load(tmp_path / "q.onnx")) == ["m"]


def test_graphs_with_nothing_for_int8_stay_as_they_are(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    bundle = make_brightness_bundle(tmp_path / "exact")
    made = quantise_bundle(bundle, bundle.golden().frames[None], tmp_path / "int8")
    assert made.spec.files[INT8_ENCODER_FILE] == made.spec.files["encoder.onnx"]
    assert "head.onnx stays as it is: there is nothing in it for INT8" in caplog.text
    open_engine(made, backend="onnxruntime", precision="int8").close()


def test_a_node_that_ruins_the_output_stays_in_fp32(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """One weight of a thousand: its scale leaves nothing of the others. The product behind it bears INT8 well."""
    caplog.set_level(logging.INFO, "engine")
    random = np.random.default_rng(0)
    wide = random.standard_normal((8, 8)).astype(np.float32)
    wide[0] *= 5000.0
    nodes = [
        helper.make_node("MatMul", ["x", "wide"], ["m"], name="wide_product"),
        helper.make_node("MatMul", ["m", "small"], ["n"], name="first"),
        helper.make_node("MatMul", ["n", "small"], ["y"], name="second"),
    ]
    small = np.linalg.qr(random.standard_normal((8, 8)))[0].astype(np.float32)
    model = graph_of(nodes, wide=wide, small=small)
    onnx.save(model, tmp_path / "g.onnx")
    samples = random.standard_normal((40, 8)).astype(np.float32)
    samples[:, 0] *= 2e-4  # what the large weights read is small: per channel they are nothing like the others
    _quantise(tmp_path / "g.onnx", tmp_path / "g.int8.onnx", "x", samples, 0.04)
    assert quantised_nodes(onnx.load(tmp_path / "g.int8.onnx")) == ["first", "second"]
    assert "not in INT8: wide_product" in caplog.text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"frames": np.zeros(3)}, "not a calibration set"),
        (
            {"windows": np.zeros((2, 3), np.uint8)},
            r"windows are uint8 \(2, 3\); camera-events@\w+ takes uint8 \(1 to 4096",
        ),
        ({"windows": np.zeros((1,), object)}, "not a calibration set"),
    ],
)
def test_a_calibration_set_that_is_none(
    tmp_path: Path, shipped: Bundle, content: dict[str, np.ndarray], message: str
) -> None:
    np.savez(tmp_path / "w.npz", **content)  # type: ignore[arg-type]
    with pytest.raises(BundleError, match=message):
        load_windows(tmp_path / "w.npz", shipped.spec)
