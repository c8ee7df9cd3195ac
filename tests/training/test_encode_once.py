"""Encode-once is exact: windows classified from cached features equal whole windows through PyTorch."""

from pathlib import Path

import numpy as np
import pytest
import torch

from engines.bundle import Bundle
from engines.opening import open_engine
from streamclf.config.picture_area import PictureArea
from streamclf.sources.frame import Frame
from streamclf.windows.assembler import WindowAssembler
from streamclf.windows.chunks import ChunkBuilder
from streamclf.windows.sampling import ChunkMeta, ChunkSampler
from training.export.onnx import export_bundle
from training.models.compact_vivit import FactorisedViViT

CHUNKS, FRAMES, SIDE, FPS = 6, 2, 32, 10
MAX_BATCH = 4


def random_model() -> FactorisedViViT:
    """Move the weights far from their initial values, so that every part of the network matters."""
    torch.manual_seed(11)
    model = FactorisedViViT(
        height=SIDE,
        width=SIDE,
        frames_per_chunk=FRAMES,
        chunks=CHUNKS,
        patch=8,
        stem=((4, 16),),
        dim=32,
        heads=4,
        spatial_layers=2,
        temporal_layers=2,
        labels=3,
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.15 * torch.randn_like(parameter))
    return model.eval()


def clip_with_gaps(seconds: float) -> list[Frame]:
    """Return frames at 25 fps with jitter, lost frames, gaps of a second, a jump back in time and damage."""
    random = np.random.default_rng(3)
    picture = random.integers(0, 255, (SIDE, SIDE, 3)).astype(np.int16)

    def render(pixels: np.ndarray, height: int, width: int, resize: str, out: np.ndarray, area: PictureArea) -> None:
        out[:] = pixels

    frames, pts_ns = [], 0
    for index in range(int(seconds * 25)):
        picture = np.clip(picture + random.integers(-12, 13, picture.shape), 0, 255).astype(np.int16)
        pts_ns += 40_000_000 + int(random.integers(-3_000_000, 3_000_000))
        if index % 400 == 399:
            pts_ns += 1_000_000_000
        if index == 700:
            pts_ns -= 5_000_000_000
        if random.random() < 0.03:
            continue
        frames.append(
            Frame(
                index=index,
                pts_ns=pts_ns,
                captured_ns=index,
                width=SIDE,
                height=SIDE,
                corrupt=1000 < index < 1020,
                image=picture.astype(np.uint8),
                render=render,
            )
        )
    return frames


class CollectingSink:
    """A sink that keeps every chunk."""

    def __init__(self) -> None:
        self.chunks = []

    def begin(self) -> np.ndarray:
        self.place = np.empty((FRAMES, SIDE, SIDE, 3), np.uint8)
        return self.place

    def commit(self, chunk: object) -> int:
        self.chunks.append((chunk, self.place))
        return len(self.chunks) - 1


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[FactorisedViViT, Bundle]:
    model = random_model()
    golden = np.random.default_rng(1).integers(0, 255, (CHUNKS, FRAMES, SIDE, SIDE, 3), np.uint8)
    fields = {
        "name": "random",
        "version": "1",
        "labels": ("a", "b", "c"),
        "height": SIDE,
        "width": SIDE,
        "fps": FPS,
        "frames_per_chunk": FRAMES,
        "chunks": CHUNKS,
    }
    path = tmp_path_factory.mktemp("bundles") / "random"
    return model, export_bundle(model, fields=fields, golden=golden, card="# random", path=path)


@pytest.fixture(scope="module")
def chunks() -> list[tuple[ChunkMeta, np.ndarray]]:
    sink = CollectingSink()
    builder = ChunkBuilder(ChunkSampler(FPS, FRAMES), sink, height=SIDE, width=SIDE, resize="stretch")
    for frame in clip_with_gaps(60):
        builder.push(frame)
    assert len({meta.segment for meta, _ in sink.chunks}) >= 5  # otherwise the test covers no gaps
    return sink.chunks


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_incremental_windows_equal_whole_windows_through_pytorch(
    exported: tuple[FactorisedViViT, Bundle],
    chunks: list[tuple[ChunkMeta, np.ndarray]],
    backend: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("STREAMCLF_CACHE", str(tmp_path / "cache"))
    model, bundle = exported
    slots = CHUNKS + MAX_BATCH - 1
    engine = open_engine(
        bundle,
        backend=backend,  # type: ignore[arg-type]
        precision="fp32",
        max_batch=MAX_BATCH,
        bank_slots=slots,
    )
    assembler = WindowAssembler(chunks=CHUNKS, hop=1, slots=slots)
    random = np.random.default_rng(2)
    actual, whole = [], []
    position = 0
    while position < len(chunks):
        batch = chunks[position : position + int(random.integers(1, MAX_BATCH + 1))]
        placed = [assembler.place(meta) for meta, _ in batch]
        engine.encode(np.stack([pixels for _, pixels in batch]), np.array([slot for slot, _ in placed], np.int32))
        for end, (_, window) in enumerate(placed, position + 1):
            if window is not None:
                actual.append(engine.classify(window.slots[None])[0])
                whole.append(np.stack([pixels for _, pixels in chunks[end - CHUNKS : end]]))
        position += len(batch)
    engine.close()

    with torch.inference_mode():
        expected = model(torch.from_numpy(np.stack(whole))).softmax(-1).numpy()
    assert len(actual) > 200
    assert expected.std(axis=0).min() > 0.01  # a constant model would agree with anything
    assert np.abs(np.stack(actual) - expected).max() <= 1e-4
