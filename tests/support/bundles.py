"""Make a model whose results are easy to compute by hand: `bright` or `dark`, by the mean of a window's pixels."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from engines.bundle import Bundle, write_spec

LABELS = ("dark", "bright")
WEIGHTS = (-0.04, 0.01, 0.03)
"""For each label of `make_other_head`, its logit for each grey level by which a window is brighter than 128."""
SHARPNESS = 0.05
"""The logit for each grey level by which a window is brighter than 128."""


def make_brightness_bundle(
    path: Path,
    *,
    chunks: int = 4,
    frames_per_chunk: int = 2,
    size: int = 16,
    fps: float = 10.0,
    corner: int | None = None,
    **spec: object,
) -> Bundle:
    """Write a bundle to the new directory `path`: feature (3,) = mean of each channel, logits = +-0.05 (mean - 128).

    `corner`: read only so many pixels of each side, at the top left. `spec`: other fields of `spec.json`.
    """
    path.mkdir(parents=True)
    chunk = (frames_per_chunk, size, size, 3)
    encoder = _graph(
        "encoder",
        [
            helper.make_node("Cast", ["frames"], ["float"], to=TensorProto.FLOAT),
            helper.make_node("Slice", ["float", "begin", "end", "axes"], ["part"]),
            helper.make_node("ReduceMean", ["part"], ["features"], axes=[1, 2, 3], keepdims=0),
        ],
        ("frames", TensorProto.UINT8, ["N", *chunk]),
        ("features", ["N", 3]),
        {
            "begin": np.array([0, 0], np.int64),
            "end": np.array([corner or size] * 2, np.int64),
            "axes": np.array([2, 3], np.int64),
        },
    )
    head = _head_graph(chunks, (-SHARPNESS, SHARPNESS))
    onnx.save(encoder, path / "encoder.onnx")
    onnx.save(head, path / "head.onnx")
    frames = np.random.default_rng(5).integers(0, 200, (chunks, *chunk), np.uint8)
    np.savez_compressed(
        path / "golden.npz", frames=frames, logits=expected_logits(frames[..., : corner or size, : corner or size, :])
    )
    (path / "README.md").write_text("# brightness\n")
    return write_spec(
        path,
        {
            "name": "brightness",
            "version": "1",
            "labels": LABELS,
            "height": size,
            "width": size,
            "fps": fps,
            "frames_per_chunk": frames_per_chunk,
            "chunks": chunks,
            "feature_shape": (3,),
            **spec,
        },
    )


def make_other_head(
    path: Path, base: Bundle, *, labels: Sequence[str] = ("low", "middle", "high"), weights: Sequence[float] = WEIGHTS
) -> Bundle:
    """Write a bundle with the encoder file of `base`, a brightness bundle, and a head of its own.

    Its logits are weights x (mean - 128), one weight for each label.
    """
    path.mkdir(parents=True)
    spec = base.spec
    shutil.copyfile(base.encoder_path, path / "encoder.onnx")
    onnx.save(_head_graph(spec.chunks, weights), path / "head.onnx")
    frames = np.random.default_rng(6).integers(20, 255, (spec.chunks, *spec.chunk_shape), np.uint8)
    np.savez_compressed(path / "golden.npz", frames=frames, logits=other_logits(frames, weights))
    (path / "README.md").write_text(f"# {path.name}\n")
    fields = spec.model_dump(exclude={"files"}) | {"name": path.name, "labels": tuple(labels)}
    return write_spec(path, fields)


def make_change_bundle(path: Path, *, light: float = 0, **spec: object) -> Bundle:
    """Write a bundle with the labels `still` and `covered`: `covered` while the first and last chunk differ in light.

    It recognises that a cover comes or goes, but not that it lies on the lens. With `light`, a bright picture that does
    not change is a little more `covered` than a dark one.
    """
    base = make_brightness_bundle(path, labels=("still", "covered"), **spec)  # type: ignore[arg-type]
    chunks = base.spec.chunks
    ends = {"first": np.array(0, np.int64), "last": np.array(chunks - 1, np.int64), "least": np.array(30, np.float32)}
    ends["light"] = np.array(light, np.float32)
    nodes = [
        helper.make_node("Gather", ["features", "first"], ["before"], axis=1),
        helper.make_node("Gather", ["features", "last"], ["after"], axis=1),
        helper.make_node("Sub", ["after", "before"], ["signed"]),
        helper.make_node("Abs", ["signed"], ["distance"]),
        helper.make_node("Mul", ["after", "light"], ["brightness"]),
        helper.make_node("Add", ["distance", "brightness"], ["change"]),
        helper.make_node("ReduceMean", ["change"], ["mean"], axes=[1], keepdims=1),
        helper.make_node("Sub", ["mean", "least"], ["above"]),
        helper.make_node("Mul", ["above", "weight"], ["logits"]),
    ]
    weight = np.array([[-0.1, 0.1]], np.float32)
    graph = _graph(
        "head",
        nodes,
        ("features", TensorProto.FLOAT, ["N", chunks, 3]),
        ("logits", ["N", 2]),
        {**ends, "weight": weight},
    )
    onnx.save(graph, path / "head.onnx")
    frames = base.golden().frames
    means = frames.astype(np.float64).mean(axis=(1, 2, 3))
    above = (np.abs(means[-1] - means[0]) + light * means[-1]).mean() - 30
    np.savez_compressed(path / "golden.npz", frames=frames, logits=np.float32([-0.1 * above, 0.1 * above]))
    return write_spec(path, base.spec.model_dump(exclude={"files"}))


def make_reversed(path: Path, base: Bundle) -> Bundle:
    """Write a bundle with the encoder of any bundle, and its head with the labels in the reverse order."""
    path.mkdir(parents=True)
    for name in base.spec.files:
        shutil.copyfile(base.path / name, path / name)
    head = onnx.load(path / "head.onnx")
    node = next(node for node in head.graph.node if "logits" in node.output)
    node.output[list(node.output).index("logits")] = "before"
    order = np.arange(len(base.spec.labels))[::-1].copy()
    head.graph.initializer.append(numpy_helper.from_array(order, "order"))
    head.graph.node.append(helper.make_node("Gather", ["before", "order"], ["logits"], axis=1))
    onnx.save(head, path / "head.onnx")
    golden = base.golden()
    np.savez(path / "golden.npz", frames=golden.frames, logits=golden.logits[::-1].copy())
    fields = base.spec.model_dump(exclude={"files"}) | {"name": path.name, "labels": base.spec.labels[::-1]}
    return write_spec(path, fields)


def other_logits(frames: npt.NDArray[np.uint8], weights: Sequence[float] = WEIGHTS) -> npt.NDArray[np.float32]:
    """Compute the logits (K,) of `make_other_head` for a window (T, t, H, W, 3)."""
    return np.float32((frames.astype(np.float64).mean() - 128) * np.array(weights))


def expected_logits(frames: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Compute the logits (2,) of the two graphs for a window (T, t, H, W, 3)."""
    above = float(frames.astype(np.float64).mean()) - 128
    return np.array([-SHARPNESS * above, SHARPNESS * above], np.float32)


def random_chunks(count: int, seed: int = 0) -> npt.NDArray[np.uint8]:
    """Make `count` chunks (count, 2, 16, 16, 3) of different brightness, with some noise."""
    random = np.random.default_rng(seed)
    levels = random.integers(30, 220, (count, 1, 1, 1, 1))
    return (levels + random.integers(-20, 20, (count, 2, 16, 16, 3))).astype(np.uint8)


def _head_graph(chunks: int, weights: Sequence[float]) -> onnx.ModelProto:
    return _graph(
        "head",
        [
            helper.make_node("ReduceMean", ["features"], ["mean"], axes=[1, 2], keepdims=0),
            helper.make_node("Sub", ["mean", "middle"], ["above"]),
            helper.make_node("Unsqueeze", ["above", "last"], ["column"]),
            helper.make_node("Mul", ["column", "weight"], ["logits"]),
        ],
        ("features", TensorProto.FLOAT, ["N", chunks, 3]),
        ("logits", ["N", len(weights)]),
        {
            "middle": np.array(128, np.float32),
            "last": np.array([1], np.int64),
            "weight": np.array([weights], np.float32),
        },
    )


def _graph(
    name: str,
    nodes: list[onnx.NodeProto],
    input_: tuple[str, int, list[str | int]],
    output: tuple[str, list[str | int]],
    constants: dict[str, npt.NDArray[np.generic]],
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info(*input_)],
        [helper.make_tensor_value_info(output[0], TensorProto.FLOAT, output[1])],
        [numpy_helper.from_array(value, key) for key, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model
