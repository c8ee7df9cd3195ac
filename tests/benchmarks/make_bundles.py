"""Make the models of the comparison, with random weights: `PYTHONPATH=tests python -m benchmarks.make_bundles FOLDER`.

`hybrid`: MobileNetV3-small at 128 px and two Transformer layers of width 1024 over 20 frames at 10 fps. `vivit-s`:
ViViT's factorised encoder of size S (d 384, 12 + 4 layers), 32 frames of 224 px at 10 fps. `vivit-b`: the same of size
B/16x2 (d 768). The weights of a model do not change its cost.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from support.vivit import random_vivit
from torch import Tensor, nn

from engines.bundle import CARD_FILE, ENCODER_FILE, GOLDEN_FILE, HEAD_FILE, Bundle, load_bundle, write_spec
from training.export.onnx import check_graph, write_graph

LABELS = 10
FPS = 10.0
VIVIT_S: dict[str, Any] = {
    "height": 224, "width": 224, "frames_per_chunk": 2, "chunks": 16, "patch": 16, "stem": (),
    "dim": 384, "heads": 6, "spatial_layers": 12, "temporal_layers": 4,
}  # fmt: skip
VIVIT_B: dict[str, Any] = {**VIVIT_S, "dim": 768, "heads": 12}
HYBRID: dict[str, Any] = {"height": 128, "width": 128, "frames_per_chunk": 1, "chunks": 20}


class FrameEncoder(nn.Module):
    """An encoder of frames: (N, 1, H, W, 3) uint8 RGB -> (N, 1024)."""

    def __init__(self) -> None:
        super().__init__()
        import timm

        self.backbone = timm.create_model("mobilenetv3_small_100", pretrained=False, num_classes=0)
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1) * 255)
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1) * 255)

    def forward(self, frames: Tensor) -> Tensor:
        return self.backbone((frames[:, 0].permute(0, 3, 1, 2).float() - self.mean) / self.std)


class Attention(nn.Module):
    """Multi-head attention whose queries may be fewer than its keys."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key_value = nn.Linear(width, width), nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)

    def forward(self, queries: Tensor, chunks: Tensor) -> Tensor:
        count, width = queries.shape[1], queries.shape[2]
        split = (self.heads, width // self.heads)
        q = (self.query(queries) * split[1] ** -0.5).reshape(-1, count, *split).transpose(1, 2)
        k, v = self.key_value(chunks).reshape(-1, chunks.shape[1], 2, *split).permute(2, 0, 3, 1, 4)
        mixed = (q @ k.transpose(-2, -1)).softmax(-1) @ v
        return self.out(mixed.transpose(1, 2).reshape(-1, count, width))


class Layer(nn.Module):
    """A pre-norm Transformer layer that computes its output for the first `queries` positions alone."""

    def __init__(self, width: int, heads: int, queries: int | None) -> None:
        super().__init__()
        self.queries = queries
        self.norm1, self.attention = nn.LayerNorm(width), Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, chunks: Tensor) -> Tensor:
        normed = self.norm1(chunks)
        mine = slice(0, self.queries)
        chunks = chunks[:, mine] + self.attention(normed[:, mine], normed)
        return chunks + self.mlp(self.norm2(chunks))


class WindowHead(nn.Module):
    """A head, (N, T, 1024) -> (N, K), of a class token and two layers; the last one computes only the class token."""

    def __init__(self, chunks: int, width: int = 1024, heads: int = 8) -> None:
        super().__init__()
        self.cls = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.positions = nn.Parameter(torch.randn(1, chunks + 1, width) * 0.02)
        self.layers = nn.Sequential(Layer(width, heads, None), Layer(width, heads, 1))
        self.classify = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, LABELS))

    def forward(self, features: Tensor) -> Tensor:
        cls = self.cls.expand(features.shape[0], -1, -1)
        chunks = torch.cat([cls, features], 1) + self.positions
        return self.classify(self.layers(chunks)[:, 0])


def build(name: str) -> tuple[nn.Module, nn.Module, dict[str, Any]]:
    """Return (encoder, head, settings) of the model `name`, always with the same weights."""
    torch.manual_seed(3)
    if name == "hybrid":
        return FrameEncoder().eval(), WindowHead(HYBRID["chunks"]).eval(), HYBRID
    settings = {"vivit-s": VIVIT_S, "vivit-b": VIVIT_B}[name]
    model = random_vivit(settings, labels=LABELS)
    return model.encoder, model.head, settings


def make(name: str, path: Path) -> Bundle:
    """Write the bundle to the new directory `path` and load it."""
    encoder, head, settings = build(name)
    path.mkdir(parents=True)
    size = [settings[key] for key in ("chunks", "frames_per_chunk", "height", "width")]
    golden = np.random.default_rng(2).integers(0, 256, (*size, 3), np.uint8)
    with torch.inference_mode():
        chunks = torch.from_numpy(golden)
        features = encoder(chunks)
        write_graph(encoder, chunks[:2], path / ENCODER_FILE, "frames", "features")
        write_graph(head, features[None].repeat(2, *[1] * features.ndim), path / HEAD_FILE, "features", "logits")
        check_graph(encoder, chunks, path / ENCODER_FILE)
        check_graph(head, features[None], path / HEAD_FILE)
        logits = head(features[None])[0].numpy()
    np.savez_compressed(path / GOLDEN_FILE, frames=golden, logits=logits)
    (path / CARD_FILE).write_text(f"# {name}\n\nRandom weights, for measuring.\n", encoding="utf-8")
    fields = {key: settings[key] for key in ("height", "width", "frames_per_chunk", "chunks")}
    labels = tuple(f"label-{i}" for i in range(LABELS))
    shape = tuple(features.shape[1:])
    write_spec(path, {"name": name, "version": "0", "labels": labels, "fps": FPS, "feature_shape": shape, **fields})
    return load_bundle(path)


if __name__ == "__main__":
    for model in ("hybrid", "vivit-s", "vivit-b"):
        print(make(model, Path(sys.argv[1]) / model).path)
