"""Write the bundle `everyday` from the published ImageNet weights; nothing is trained."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import onnx
import torch
from torch import Tensor, nn

from engines.arrays import U8
from engines.bundle import ENCODER_FILE, HEAD_FILE, SPEC_FILE, Bundle, load_bundle, write_spec
from training.builtin.everyday.byte_weights import store_as_bytes
from training.builtin.everyday.groups import group_matrix
from training.builtin.everyday.model import EverydayModel, load_backbone
from training.data.shape import Shape
from training.errors import RunError
from training.export.golden import render_windows
from training.export.onnx import check_graph, export_bundle

NAME: Final = "everyday"
VERSION: Final = "1"
SHAPE: Final = Shape(fps=10, frames_per_chunk=3, chunks=6, height=128, width=224)
RESIZE: Final = "stretch"
GOLDEN_PROBABILITY: Final = 0.92
"""Nearer to 1, wrong numbers would hardly show; at 0.5, rounding to bf16 moves a probability by 0.05, too much."""
_SAME_NAMES: Final = {134: "crane (bird)", 517: "crane (machine)"}
"""Names, by class number, where ImageNet gives two classes the same text."""

CARD: Final = """# everyday {version}

A base for models that you teach with your own clips: `streamclf teach FOLDER -o MODEL`. Its encoder describes what the
picture shows and how it moves. A taught model is a small head on this encoder, and models taught on it share it.

Its own head names the kind of thing that the window shows best: ImageNet's 1000 classes in 18 groups, and `something
else`. The head shows that the encoder works, and it suits close views of one thing. ImageNet has no class for people,
so `person or clothing` is weak. In a wide view with small things, `something else` is the usual answer.

Window: 6 chunks of 3 frames at 10 fps (1.8 s), 128 x 224 pixels. A picture of another shape is stretched.

| part of the feature | size | content |
|---|---|---|
{parts}

**Weights**: MobileNetV2 (Sandler et al. 2018), trained on ImageNet by Google, licence Apache-2.0; from a model that was
trained for 8-bit weights. Their sha256 is `{digest}`. They are stored as 8 bits each, which
is exact: each tensor has at most 256 values. The motion encoder has no weights. No film was used to make this bundle.

**Made by** `python -m training export-everyday WEIGHTS --labels LABELS -o streamclf/bundles/everyday`. `golden.npz`
shows rendered shapes.

**Figures**: docs/development/few-shot.md measures what it learns from 5 and 10 clips of a label. The accuracy of the
ImageNet head was not measured.

**Licence**: Apache-2.0.
"""

CONTENT: Final = {
    "appearance": "the last layer, averaged over the middle frame",
    "layout": "96 channels of a middle layer, averaged over each quarter of the middle frame",
    "motion": "how much, how fast and how orderly things move (logarithms)",
    "motion_map": "in each of 4 x 7 fields: motion to the right, motion down, logarithm of the share that moves",
}


def export_everyday(weights: Path, labels: Path, output: Path) -> Bundle:
    """Write the bundle at `output`, and check it. Raises `RunError` where a file does not fit."""
    torch.set_num_threads(1)
    groups, matrix = group_matrix(read_labels(labels))
    return write_everyday(
        load_backbone(weights),
        groups,
        matrix,
        output,
        shape=SHAPE,
        digest=hashlib.sha256(weights.read_bytes()).hexdigest(),
    )


def write_everyday(
    backbone: nn.Module, labels: Sequence[str], groups: Tensor, output: Path, *, shape: Shape, digest: str
) -> Bundle:
    """Write the bundle for a MobileNetV2 of timm, and verify that the compact graphs compute what the model does.

    `groups`: (classes, K), the classes that each of the K labels sums.
    """
    model = EverydayModel(
        backbone, groups, height=shape.height, width=shape.width, frames_per_chunk=shape.frames_per_chunk
    )
    golden = _golden_window(model, shape)
    parts = model.part_sizes(torch.from_numpy(golden))
    rows = "\n".join(f"| `{name}` | {size} | {CONTENT[name]} |" for name, size in parts.items())
    fields = {
        "name": NAME,
        "version": VERSION,
        "labels": tuple(labels),
        "height": shape.height,
        "width": shape.width,
        "resize": RESIZE,
        "fps": shape.fps,
        "frames_per_chunk": shape.frames_per_chunk,
        "chunks": shape.chunks,
        "feature_parts": parts,
        # On noisy film, fast decoding changed predictions of a taught head (docs/development/accuracy.md).
        "decode": "exact",
    }
    card = CARD.format(version=VERSION, parts=rows, digest=digest)
    if output.exists() and not (output / SPEC_FILE).is_file() and any(output.iterdir()):
        raise RunError(f"{output}: exists and is not a bundle; choose another folder")
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=".everyday-") as folder:
        new = Path(folder) / "bundle"
        bundle = export_bundle(model, fields=fields, golden=golden, card=card, path=new)
        _make_compact(model, torch.from_numpy(golden), new)
        write_spec(new, {**fields, "feature_shape": bundle.spec.feature_shape})
        if output.exists():
            shutil.rmtree(output)
        new.rename(output)
    return load_bundle(output)


def _make_compact(model: EverydayModel, golden: Tensor, folder: Path) -> None:
    """Store the weights of both graphs as bytes, and compare the graphs with the model on the golden window."""
    with torch.inference_mode():
        features = model.encoder(golden)[None]
    for name, module, example in ((ENCODER_FILE, model.encoder, golden), (HEAD_FILE, model.head, features)):
        graph = onnx.load_model(folder / name)
        store_as_bytes(graph.graph)
        onnx.checker.check_model(graph, full_check=True)
        onnx.save_model(graph, folder / name)
        check_graph(module, example, folder / name, tolerance=model.encoder_tolerance)


def _golden_window(model: EverydayModel, shape: Shape) -> U8:
    """Return the rendered window (T, t, H, W, 3) whose best probability is nearest to `GOLDEN_PROBABILITY`."""
    windows = [*render_windows(shape)]
    with torch.inference_mode():
        best = [float(model(torch.from_numpy(window)[None]).softmax(dim=1).max()) for window in windows]
    return min(zip(best, windows, strict=True), key=lambda pair: abs(pair[0] - GOLDEN_PROBABILITY))[1]


def read_labels(path: Path) -> list[str]:
    """Read one line for each class, the background first; a class is called by its first name if that is unique."""
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(f"{path}: cannot be read ({error}); give the list of ImageNet's classes") from error
    if len(lines) != 1001 or lines[0] != "background":
        raise RunError(f"{path}: {len(lines)} lines; give 1001, `background` and then ImageNet's 1000 classes in order")
    classes = lines[1:]
    short = [line.split(",")[0].strip() for line in classes]
    count = Counter(short)
    names = [
        _SAME_NAMES.get(number, name if count[name] == 1 else line)
        for number, (name, line) in enumerate(zip(short, classes, strict=True))
    ]
    if repeated := [name for name, times in Counter(names).items() if times > 1]:
        raise RunError(f"{path}: {repeated[0]!r} names two classes; give ImageNet's own list")
    return names
