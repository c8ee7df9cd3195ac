"""The pose model: joints are where their heat is, of the largest person, and the head reads motion alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from engines.graphs.lint import check_graph
from training.errors import RecipeError, RunError
from training.export import onnx as onnx_export
from training.models.movenet import JOINTS, MIRRORED, MoveNet, MoveNetMaps, _tensor_names, load_movenet
from training.models.pose import PoseModel, PoseRecipe

WORDS: dict[str, Any] = {"height": 64, "width": 96, "chunks": 5, "multiplier": 0.25, "dim": 16, "members": 2}
ROWS, COLUMNS = 16, 24


def small(**words: object) -> PoseModel:
    torch.manual_seed(0)
    model = PoseRecipe.model_validate(WORDS | words).build(labels=4)
    assert isinstance(model, PoseModel)
    return model.eval()


def films(n: int = 2) -> Tensor:
    rng = torch.Generator().manual_seed(1)
    blocks = torch.randint(0, 256, (n, 5, 1, 8, 12, 3), dtype=torch.uint8, generator=rng)
    return blocks.repeat_interleave(8, dim=3).repeat_interleave(8, dim=4)


def walks(n: int = 3, seed: int = 3) -> Tensor:
    """(n, 5, F) of joints that swing about a body's places."""
    rng = torch.Generator().manual_seed(seed)
    points = torch.randn(n, 1, JOINTS, 2, generator=rng) * 0.2 + 0.05 * torch.randn(n, 5, JOINTS, 2, generator=rng)
    sure = torch.rand(n, 5, JOINTS, generator=rng)
    return torch.cat([points.flatten(2), sure, torch.full((n, 5, 1), 0.5), torch.ones(n, 5, 1)], dim=2)


def learned(model: PoseModel) -> PoseModel:
    """Norms that have seen a few windows: without them, every logit of a random head is about the same."""
    model.train()
    with torch.no_grad():
        for seed in range(20):
            model.head(walks(8, seed))
    return model.eval()


class Told(torch.nn.Module):
    """A net that finds what it is told to: people by the cell of their middle, their joints in a row below it."""

    def __init__(self, people: list[tuple[int, int, float, int]]) -> None:
        super().__init__()
        self.people = people

    def forward(self, pictures: Tensor) -> MoveNetMaps:
        n = len(pictures)
        centre = torch.full((n, 1, ROWS, COLUMNS), -8.0)
        reach, heat = torch.zeros(n, 2 * JOINTS, ROWS, COLUMNS), torch.full((n, JOINTS, ROWS, COLUMNS), -8.0)
        offset = torch.zeros(n, 2 * JOINTS, ROWS, COLUMNS)
        for row, column, sure, tall in self.people:
            centre[:, 0, row, column] = sure
            for joint in range(JOINTS):
                at = row - tall + 2 * tall * joint // (JOINTS - 1)
                reach[:, 2 * joint, row, column] = at - row
                heat[:, joint, at, column + 1] = 2.0  # a cell beside where the middle says it should be
                offset[:, 2 * joint, at, column + 1], offset[:, 2 * joint + 1, at, column + 1] = 0.25, -0.5
        return MoveNetMaps(centre, reach, heat, offset)


def test_chunk_by_chunk_is_the_whole_window() -> None:
    model, window = learned(small()), films()
    with torch.inference_mode():
        features = torch.stack([model.encoder(window[:, i]) for i in range(5)], dim=1)
        assert features.shape == (2, 5, 3 * JOINTS + 2)
        torch.testing.assert_close(model.head(features), model(window), atol=1e-5, rtol=1e-5)
        logits = model.head(walks())
        assert (model.head(walks().flip(1)) - logits).abs().max() > 1e-3  # it reads order


def test_joints_are_the_largest_persons() -> None:
    """Of two, the surer one is small: the taller one is taken, and joints are refined by heat and offset."""
    model = small()
    model.encoder.net = Told([(4, 5, 3.0, 2), (9, 15, 2.0, 6)])  # type: ignore[assignment]
    with torch.inference_mode():
        (feature,) = model.encoder(films(1)[0, :1])
    x, y = feature[: 2 * JOINTS].reshape(JOINTS, 2).T
    rows = torch.tensor([9 - 6 + 12 * joint // 16 for joint in range(JOINTS)])
    torch.testing.assert_close(y, (rows + 0.25 - 7.5) / ROWS)
    torch.testing.assert_close(x, torch.full((JOINTS,), (16 - 0.5 - 11.5) / ROWS))
    torch.testing.assert_close(feature[2 * JOINTS : 3 * JOINTS], torch.full((JOINTS,), 2.0).sigmoid())
    torch.testing.assert_close(feature[-2:], torch.tensor([12 / ROWS, torch.tensor(2.0).sigmoid()]))


def test_place_size_and_mirror_do_not_matter() -> None:
    """A person elsewhere, twice as large, or in a mirror (where left is right) does the same."""
    model, features = learned(small()), walks()
    points, sure, size, rest = torch.split(features, [2 * JOINTS, JOINTS, 1, 1], dim=2)
    points = points.reshape(3, 5, JOINTS, 2)
    names = list(MIRRORED)
    elsewhere = torch.cat([(points + torch.tensor([0.3, -0.1])).flatten(2), sure, size, rest], dim=2)
    larger = torch.cat([(2 * points).flatten(2), sure, 2 * size, rest], dim=2)
    mirror = torch.cat([(points * torch.tensor([-1.0, 1]))[:, :, names].flatten(2), sure[:, :, names], size, rest], 2)
    flipped = torch.cat([(points * torch.tensor([1.0, -1])).flatten(2), sure, size, rest], dim=2)
    with torch.inference_mode():
        expected = model.head(features)
        for same in (elsewhere, larger, mirror):
            torch.testing.assert_close(model.head(same), expected, atol=1e-4, rtol=1e-4)
        assert (model.head(flipped) - expected).abs().max() > 1e-3


def test_the_head_learns_which_hand_rises() -> None:
    """Either wrist rises or both do: after a few steps it tells one from two, whatever the hand."""
    model = small(dropout=0.1, members=2, chunks=5)
    rng = torch.Generator().manual_seed(5)

    def swings(n: int) -> tuple[Tensor, Tensor]:
        points = torch.randn(1, 1, JOINTS, 2, generator=torch.Generator().manual_seed(9)) * 0.15
        points = points + 0.01 * torch.randn(n, 5, JOINTS, 2, generator=rng)
        both = torch.randint(0, 2, (n,), generator=rng).bool()
        left = torch.randint(0, 2, (n,), generator=rng).bool()
        rise = torch.linspace(0, -0.3, 5)
        points[:, :, 9, 1] += rise * (both | left)[:, None]
        points[:, :, 10, 1] += rise * (both | ~left)[:, None]
        ones = torch.ones(n, 5, JOINTS + 2)
        return torch.cat([points.flatten(2), ones], dim=2), both.long()

    optimiser = torch.optim.AdamW(model.head.parameters(), lr=3e-3)
    model.train()
    for _ in range(60):
        features, both = swings(32)
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(model.head(features), both).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    features, both = swings(64)
    with torch.inference_mode():
        assert (model.eval().head(features).argmax(dim=1) == both).float().mean() > 0.9


def test_both_graphs_are_the_models(tmp_path: Path) -> None:
    model = learned(small())
    chunks = films()[0]
    for part, example in ((model.encoder, chunks), (model.head, walks())):
        path = tmp_path / "graph.onnx"
        onnx_export.write_graph(part, example[:2], path, "in", "out")
        assert onnx_export.check_graph(part, example, path) < onnx_export.TOLERANCE
        assert not [
            note for note in check_graph(path.read_bytes(), name="graph", profile="trt86") if note.level == "error"
        ]


def write_tfjs(net: MoveNet, folder: Path, **changes: Any) -> Path:
    """`net` as its publishers write it: TensorFlow's names and order of axes, halves, one .bin."""
    tensors: list[dict[str, Any]] = []
    data = b""
    for conv, weight, bias in _tensor_names(net):
        axes = (2, 3, 0, 1) if conv.groups > 1 else (2, 3, 1, 0)
        for name, value in ((weight, conv.weight.permute(axes)), (bias, conv.bias)):
            if value is not None:
                array = value.detach().numpy().astype(np.float16)
                full = "Net" + name.replace(r"\d+", str(len(tensors)))
                tensors.append({"name": full, "shape": list(array.shape), "quantization": {"dtype": "float16"}})
                data += array.tobytes()
    manifest = [{"paths": ["net.bin"], "weights": [tensor | {"dtype": "float32"} for tensor in tensors]}]
    folder.mkdir(exist_ok=True)
    (folder / "net.bin").write_bytes(data)
    (folder / "net.json").write_text(json.dumps({"weightsManifest": manifest} | changes))
    return folder / "net.json"


def test_weights_come_from_the_published_files(tmp_path: Path) -> None:
    torch.manual_seed(7)
    net = MoveNet(multiplier=0.25).half().float()
    path = write_tfjs(net, tmp_path / "net")
    model = small(weights=str(path))
    pictures = torch.rand(1, 3, 64, 96) * 2 - 1
    with torch.inference_mode():
        for ours, theirs in zip(model.encoder.net(pictures), net(pictures), strict=True):
            torch.testing.assert_close(ours, theirs)
    assert PoseRecipe.model_validate(WORDS | {"weights": "gone.json"}).without_weights().build(labels=4) is not None


def test_weights_that_are_not_say_so(tmp_path: Path) -> None:
    net = MoveNet(multiplier=0.25)
    path = write_tfjs(net, tmp_path / "net")
    with pytest.raises(RecipeError, match=r"net\.json: .* this network's .*model\.multiplier"):
        load_movenet(MoveNet(multiplier=1.0), path)
    with pytest.raises(RunError, match=r"none\.json: not a TensorFlow\.js model"):
        load_movenet(net, tmp_path / "none.json")
    (tmp_path / "net/net.bin").write_bytes(b"short")
    with pytest.raises(RunError, match=r"net\.json: not a TensorFlow\.js model"):
        load_movenet(net, path)
    empty = write_tfjs(net, tmp_path / "other", weightsManifest=[])
    with pytest.raises(RecipeError, match="has 0 tensors"):
        load_movenet(net, empty)
    path.write_text("[]")
    with pytest.raises(RunError, match="not a TensorFlow"):
        load_movenet(net, path)


def test_files_beyond_the_graphs_folder_are_not_read(tmp_path: Path) -> None:
    net = MoveNet(multiplier=0.25)
    path = write_tfjs(net, tmp_path / "net")
    (tmp_path / "net/net.bin").rename(tmp_path / "net.bin")
    path.write_text(path.read_text().replace('"net.bin"', '"../net.bin"'))
    with pytest.raises(RunError, match="not a TensorFlow"):
        load_movenet(net, path)


def test_sizes_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ValueError, match="multiple of 32"):
        PoseRecipe(height=80, width=96, chunks=4)
