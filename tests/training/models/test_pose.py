"""The pose model's encoder locates the joints of the largest people; its head reads only the motion of one of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from engines.graphs.lint import check_graph
from engines.opening import open_engine
from training.export.onnx import export_bundle
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
    """Return features (n, 5, 1, F) of one person whose joints move randomly about fixed positions."""
    rng = torch.Generator().manual_seed(seed)
    points = torch.randn(n, 1, JOINTS, 2, generator=rng) * 0.2 + 0.05 * torch.randn(n, 5, JOINTS, 2, generator=rng)
    sure = torch.rand(n, 5, JOINTS, generator=rng)
    return torch.cat([points.flatten(2), sure, torch.full((n, 5, 1), 0.5), torch.ones(n, 5, 1)], dim=2)[:, :, None]


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
        assert features.shape == (2, 5, 4, 3 * JOINTS + 2)
        torch.testing.assert_close(model.head(features), model(window), atol=1e-5, rtol=1e-5)
        logits = model.head(moving_joints())
        assert (model.head(moving_joints().flip(1)) - logits).abs().max() > 1e-3  # the order matters


def test_people_come_largest_first_and_each_once() -> None:
    """The taller of two people is first despite a lower confidence; two maps refine the joints.

    A cell beside the centre of the taller one predicts the same person, so it is not a person of its own.
    """
    model = small(people=3)
    model.encoder.net = FixedMaps([(4, 5, 3.0, 2), (9, 15, 2.0, 6), (9, 17, 1.9, 6)])  # type: ignore[assignment]
    with torch.inference_mode():
        (people,) = model.encoder(random_windows(1)[0, :1])
    for person, (row, column, sure, tall) in zip(people, [(9, 15, 2.0, 6), (4, 5, 3.0, 2)], strict=False):
        x, y = person[: 2 * JOINTS].reshape(JOINTS, 2).T
        rows = torch.tensor([row - tall + 2 * tall * joint // 16 for joint in range(JOINTS)])
        torch.testing.assert_close(y, (rows + 0.25 - 7.5) / ROWS)
        torch.testing.assert_close(x, torch.full((JOINTS,), (column + 1 - 0.5 - 11.5) / ROWS))
        torch.testing.assert_close(person[2 * JOINTS : 3 * JOINTS], torch.full((JOINTS,), 2.0).sigmoid())
        torch.testing.assert_close(person[-2:], torch.tensor([2 * tall / ROWS, torch.tensor(sure).sigmoid()]))
    assert not people[2].any()  # no third person: zeros, not a cell that each framework would choose differently


def test_position_size_and_mirroring_do_not_change_the_logits() -> None:
    """A person elsewhere, twice as large, or mirrored with left and right exchanged gives the same logits."""
    model, features = with_adapted_norms(small()), moving_joints()
    points, sure, size, rest = torch.split(features, [2 * JOINTS, JOINTS, 1, 1], dim=3)
    points = points.reshape(3, 5, 1, JOINTS, 2)
    names = list(MIRRORED)
    elsewhere = torch.cat([(points + torch.tensor([0.3, -0.1])).flatten(3), sure, size, rest], dim=3)
    larger = torch.cat([(2 * points).flatten(3), sure, 2 * size, rest], dim=3)
    mirror = torch.cat([(points * torch.tensor([-1.0, 1]))[..., names, :].flatten(3), sure[..., names], size, rest], 3)
    flipped = torch.cat([(points * torch.tensor([1.0, -1])).flatten(3), sure, size, rest], dim=3)
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
        return torch.cat([points.flatten(2), ones], dim=2)[:, :, None], both.long()

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


def test_bundle_gives_the_models_probabilities_and_passes_the_lint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenVINO encodes each chunk once; the head chooses the person anew in each of two windows that share chunks."""
    monkeypatch.setenv("STREAMCLF_CACHE", str(tmp_path / "cache"))
    model = with_adapted_norms(small(members=1))  # tracing takes time in proportion to the members
    film = random_windows(2).flatten(0, 1)[:6]  # (6, 1, H, W, 3)
    fields = {"name": "pose", "version": "1", "labels": ("a", "b", "c", "d"), "fps": 15, "frames_per_chunk": 1}
    fields |= {name: RECIPE[name] for name in ("height", "width", "chunks")}
    bundle = export_bundle(model, fields=fields, golden=film[:5].numpy(), card="# pose", path=tmp_path / "pose")
    for file in bundle.graphs("fp32"):
        notes = check_graph(file.read_bytes(), name="graph", profile="trt86")
        assert not [note for note in notes if note.level == "error"]
    engine = open_engine(bundle, backend="openvino", precision="fp32", max_batch=6, bank_slots=6)
    engine.encode(film.numpy(), np.arange(6, dtype=np.int32))
    actual = engine.classify(np.array([[0, 1, 2, 3, 4], [1, 2, 3, 4, 5]], np.int32))
    engine.close()
    with torch.inference_mode():
        expected = model(torch.stack([film[:5], film[1:]])).softmax(dim=1).numpy()
    np.testing.assert_allclose(actual, expected, atol=1e-4)


def test_sizes_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ValueError, match="multiple of 32"):
        PoseRecipe(height=80, width=96, chunks=4)
