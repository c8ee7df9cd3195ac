"""The pose model's encoder locates the joints of the largest person; its head reads only their motion."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from engines.graphs.lint import check_graph
from training.export import onnx as onnx_export
from training.models.movenet import JOINTS, MIRRORED, MoveNetMaps
from training.models.pose import PoseModel, PoseRecipe

RECIPE: dict[str, Any] = {"height": 64, "width": 96, "chunks": 5, "multiplier": 0.25, "dim": 16, "members": 2}
ROWS, COLUMNS = 16, 24


def small(**changes: object) -> PoseModel:
    torch.manual_seed(0)
    model = PoseRecipe.model_validate(RECIPE | changes).build(labels=4)
    assert isinstance(model, PoseModel)
    return model.eval()


def random_windows(n: int = 2) -> Tensor:
    rng = torch.Generator().manual_seed(1)
    blocks = torch.randint(0, 256, (n, 5, 1, 8, 12, 3), dtype=torch.uint8, generator=rng)
    return blocks.repeat_interleave(8, dim=3).repeat_interleave(8, dim=4)


def moving_joints(n: int = 3, seed: int = 3) -> Tensor:
    """Return features (n, 5, F) of joints that move randomly about fixed positions."""
    rng = torch.Generator().manual_seed(seed)
    points = torch.randn(n, 1, JOINTS, 2, generator=rng) * 0.2 + 0.05 * torch.randn(n, 5, JOINTS, 2, generator=rng)
    sure = torch.rand(n, 5, JOINTS, generator=rng)
    return torch.cat([points.flatten(2), sure, torch.full((n, 5, 1), 0.5), torch.ones(n, 5, 1)], dim=2)


def with_adapted_norms(model: PoseModel) -> PoseModel:
    """Adapt the batch norms to a few windows; otherwise all logits of a random head are nearly equal."""
    model.train()
    with torch.no_grad():
        for seed in range(20):
            model.head(moving_joints(8, seed))
    return model.eval()


class FixedMaps(torch.nn.Module):
    """A stand-in for MoveNet that reports given people: (row, column, confidence logit, half height) each."""

    def __init__(self, people: list[tuple[int, int, float, int]]) -> None:
        super().__init__()
        self.people = people

    def forward(self, images: Tensor) -> MoveNetMaps:
        n = len(images)
        centre = torch.full((n, 1, ROWS, COLUMNS), -8.0)
        reach, heat = torch.zeros(n, 2 * JOINTS, ROWS, COLUMNS), torch.full((n, JOINTS, ROWS, COLUMNS), -8.0)
        offset = torch.zeros(n, 2 * JOINTS, ROWS, COLUMNS)
        for row, column, sure, tall in self.people:
            centre[:, 0, row, column] = sure
            for joint in range(JOINTS):
                at = row - tall + 2 * tall * joint // (JOINTS - 1)
                reach[:, 2 * joint, row, column] = at - row
                heat[:, joint, at, column + 1] = 2.0  # one cell beside the position that the centre predicts
                offset[:, 2 * joint, at, column + 1], offset[:, 2 * joint + 1, at, column + 1] = 0.25, -0.5
        return MoveNetMaps(centre, reach, heat, offset)


def test_whole_window_equals_chunks_encoded_one_at_a_time() -> None:
    model, window = with_adapted_norms(small()), random_windows()
    with torch.inference_mode():
        features = torch.stack([model.encoder(window[:, i]) for i in range(5)], dim=1)
        assert features.shape == (2, 5, 3 * JOINTS + 2)
        torch.testing.assert_close(model.head(features), model(window), atol=1e-5, rtol=1e-5)
        logits = model.head(moving_joints())
        assert (model.head(moving_joints().flip(1)) - logits).abs().max() > 1e-3  # the order matters


def test_joints_are_those_of_the_largest_person() -> None:
    """The encoder chooses the taller of two people despite its lower confidence; two maps refine the joints."""
    model = small()
    model.encoder.net = FixedMaps([(4, 5, 3.0, 2), (9, 15, 2.0, 6)])  # type: ignore[assignment]
    with torch.inference_mode():
        (feature,) = model.encoder(random_windows(1)[0, :1])
    x, y = feature[: 2 * JOINTS].reshape(JOINTS, 2).T
    rows = torch.tensor([9 - 6 + 12 * joint // 16 for joint in range(JOINTS)])
    torch.testing.assert_close(y, (rows + 0.25 - 7.5) / ROWS)
    torch.testing.assert_close(x, torch.full((JOINTS,), (16 - 0.5 - 11.5) / ROWS))
    torch.testing.assert_close(feature[2 * JOINTS : 3 * JOINTS], torch.full((JOINTS,), 2.0).sigmoid())
    torch.testing.assert_close(feature[-2:], torch.tensor([12 / ROWS, torch.tensor(2.0).sigmoid()]))


def test_position_size_and_mirroring_do_not_change_the_logits() -> None:
    """A person elsewhere, twice as large, or mirrored with left and right exchanged gives the same logits."""
    model, features = with_adapted_norms(small()), moving_joints()
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


def test_head_learns_whether_one_or_both_wrists_rise() -> None:
    """After 60 steps the head distinguishes one rising wrist, left or right, from two."""
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


def test_onnx_graphs_equal_the_model_and_pass_the_lint(tmp_path: Path) -> None:
    model = with_adapted_norms(small(members=1))  # tracing takes time in proportion to the members
    chunks = random_windows()[0]
    for part, example in ((model.encoder, chunks), (model.head, moving_joints())):
        path = tmp_path / "graph.onnx"
        onnx_export.write_graph(part, example[:2], path, "in", "out")
        assert onnx_export.check_graph(part, example, path) < onnx_export.TOLERANCE
        assert not [
            note for note in check_graph(path.read_bytes(), name="graph", profile="trt86") if note.level == "error"
        ]


def test_sizes_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ValueError, match="multiple of 32"):
        PoseRecipe(height=80, width=96, chunks=4)
