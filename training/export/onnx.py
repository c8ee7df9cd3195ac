"""Write a model as a bundle, and check it: two ONNX graphs, a golden window, a model card and `spec.json`."""

from __future__ import annotations

import logging
import shutil
import sys
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import torch
from torch import Tensor, nn

from engines.bundle import CARD_FILE, ENCODER_FILE, GOLDEN_FILE, HEAD_FILE, SPEC_FILE, Bundle, load_bundle, write_spec
from engines.graphs.shapes import rewrite_shapes
from training.errors import RunError
from training.fit.bundle_limits import check_graph_size
from training.models import ClipModel
from training.models.base import TOLERANCE

OPSET = 17


def export_bundle(
    model: ClipModel,
    *,
    fields: dict[str, Any],
    golden: npt.NDArray[np.uint8],
    card: str,
    path: Path,
    encoder: Path | None = None,
    spare: Sequence[npt.NDArray[np.uint8]] = (),
) -> Bundle:
    """Write the bundle at `path`. An older bundle there is replaced only when the new one is complete and verified.

    `fields`: the fields of `ModelSpec` without `files` and `feature_shape`. `golden`: (T, t, H, W, 3) uint8 RGB.
    `encoder`: the graph of the same encoder, which is then copied, since writing a large one takes minutes. `spare`:
    windows that may take the place of `golden` if `model.may_tie`, best first.
    Raises `RunError` where the graphs do not compute the same outputs as the model.
    """
    if path.exists() and not (path / SPEC_FILE).is_file() and any(path.iterdir()):
        raise RunError(f"{path}: exists and is not a bundle; choose another folder")
    model = model.eval()
    chunks = torch.from_numpy(golden)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".export-") as folder, torch.inference_mode():
        new = Path(folder) / "bundle"
        new.mkdir()
        features = model.encoder(chunks)
        # Each example has a batch of two, because torch.export treats a batch of one as a constant.
        if encoder is None:
            write_graph(model.encoder, torch.stack([chunks[0], chunks[0]]), new / ENCODER_FILE, "frames", "features")
        else:
            shutil.copyfile(encoder, new / ENCODER_FILE)
        write_graph(model.head, torch.stack([features, features]), new / HEAD_FILE, "features", "logits")
        golden = choose_agreeing_window(model, [golden, *spare] if model.may_tie else [golden], new)
        logits = model(torch.from_numpy(golden)[None])[0].numpy().astype(np.float32)
        np.savez_compressed(new / GOLDEN_FILE, frames=golden, logits=logits)
        (new / CARD_FILE).write_text(card, encoding="utf-8")
        write_spec(new, {**fields, "feature_shape": tuple(features.shape[1:])})
        if path.exists():
            shutil.rmtree(path)
        new.rename(path)
    return load_bundle(path)


def choose_agreeing_window(
    model: ClipModel, windows: Sequence[npt.NDArray[np.uint8]], folder: Path
) -> npt.NDArray[np.uint8]:
    """Return the first window (T, t, H, W, 3) on which the graphs in `folder` compute the same outputs as the model.

    A near tie is rare, but a fault of a graph shows on most windows. So `RunError` is raised unless the graphs agree
    with the model on more than half of the windows.
    """
    agreeing, errors = [], []
    for window in windows:
        chunks = torch.from_numpy(window)
        try:
            check_graph(model.encoder, chunks, folder / ENCODER_FILE, tolerance=model.encoder_tolerance)
            check_graph(model.head, model.encoder(chunks)[None], folder / HEAD_FILE)
        except RunError as error:
            errors.append(error)
            continue
        agreeing.append(window)
        if not errors:
            return window
    if len(windows) == 1:
        raise errors[0]
    counts = f"the graphs differ from PyTorch on {len(errors)} of {len(windows)} candidates for the golden window"
    if len(agreeing) <= len(errors):
        raise RunError(f"{counts}; fewer than half may differ. The first: {errors[0]}")
    note = "as they may where two choices are nearly equal; the best one without a difference is taken"
    print(f"note: {counts}, {note}", file=sys.stderr, flush=True)
    return agreeing[0]


def write_graph(module: nn.Module, example: Tensor, path: Path, source: str, target: str) -> None:
    """Write one module as ONNX, opset 17. Only the batch axis N is dynamic.

    Raises `RunError` where that is not possible: a graph and its weights are one file of at most 2 GiB.
    """
    check_graph_size(module, path.name)
    for noisy in ("torch.onnx", "onnxscript"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter warns about its own code
        program = torch.onnx.export(
            module.eval(),
            (example,),
            dynamo=True,
            opset_version=OPSET,
            input_names=[source],
            output_names=[target],
            dynamic_shapes=({0: torch.export.Dim("N")},),
            external_data=False,
            verbose=False,
        )
    assert program is not None
    graph = program.model_proto
    for node in graph.graph.node:
        node.ClearField("metadata_props")  # each node's place in the source code; a third of the file
        node.doc_string = ""
    del graph.graph.value_info[:]
    _lower_opset(graph)
    rewrite_shapes(graph)
    try:
        onnx.checker.check_model(graph, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        reason = str(error).strip().splitlines()[0]
        raise RunError(
            f"{path.name}: cannot be written in opset {OPSET} ({reason}); choose another backbone"
        ) from error
    onnx.save_model(graph, path)
    dynamic = [dim.dim_param for tensor in graph.graph.input for dim in tensor.type.tensor_type.shape.dim]
    if [bool(name) for name in dynamic] != [True] + [False] * (len(dynamic) - 1):
        raise RunError(f"{path.name}: its dynamic axes are {dynamic}; only the first axis may be dynamic")


def _lower_opset(graph: onnx.ModelProto) -> None:
    """Rewrite reductions from opset 18 to opset 17, which the exporter's own converter cannot do.

    Of the operators that models here use, opset 18 changed only the reductions: their axes became an input, where
    opset 17 has an attribute.
    """
    (main,) = (opset for opset in graph.opset_import if opset.domain in ("", "ai.onnx"))
    if main.version == OPSET:
        return
    constants = {tensor.name: tensor for tensor in graph.graph.initializer}
    for node in graph.graph.node:
        if node.op_type in ("ReduceMean", "ReduceMax", "ReduceMin", "ReduceL2", "ReduceProd") and len(node.input) == 2:
            axes = constants.get(node.input[1])
            if axes is None:
                raise RunError(f"{node.name}: its axes are computed at run time; write the model with fixed axes")
            kept = [attribute for attribute in node.attribute if attribute.name != "noop_with_empty_axes"]
            del node.attribute[:]
            node.attribute.extend(kept)
            node.attribute.append(onnx.helper.make_attribute("axes", onnx.numpy_helper.to_array(axes).tolist()))
            del node.input[1]
    used = {name for node in graph.graph.node for name in node.input}
    for tensor in [tensor for tensor in graph.graph.initializer if tensor.name not in used]:
        graph.graph.initializer.remove(tensor)
    main.version = OPSET


def check_graph(module: nn.Module, example: Tensor, path: Path, *, tolerance: float = TOLERANCE) -> float:
    """Return the relative difference between a module and its graph in ONNX Runtime.

    Raises `RunError` above the tolerance.
    """
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    with torch.inference_mode():
        expected = module(example).numpy()
    (actual,) = session.run(None, {session.get_inputs()[0].name: example.numpy()})
    difference = float(np.abs(actual - expected).max() / (np.abs(expected).max() + 1e-12))
    if not difference < tolerance:
        raise RunError(
            f"{path.name}: ONNX Runtime differs from PyTorch by {difference:.1e} of the largest output, "
            f"at most {tolerance:.0e}; export with the torch and onnx versions that pyproject.toml names"
        )
    return difference
