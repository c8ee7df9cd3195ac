"""The keypoint model's points follow their heat maps and do not depend on brightness."""

import pytest
import torch

from training.models.keypoint import KeypointModel, KeypointRecipe


def small(**changes: object) -> KeypointModel:
    torch.manual_seed(0)
    recipe = KeypointRecipe.model_validate(
        {"height": 32, "width": 48, "frames_per_chunk": 2, "chunks": 4, "points": 3, "described_channels": 5, "dim": 16}
        | changes
    )
    model = recipe.build(labels=6)
    assert isinstance(model, KeypointModel)
    return model.eval()


def random_windows(n: int = 2) -> torch.Tensor:
    return torch.randint(0, 256, (n, 4, 2, 32, 48, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def test_whole_window_equals_chunks_encoded_one_at_a_time() -> None:
    model, window = small(), random_windows()
    with torch.inference_mode():
        features = torch.stack([model.encoder(window[:, i]) for i in range(4)], dim=1)
        assert features.shape == (2, 4, 3 * 3 + 5 + 1)
        torch.testing.assert_close(model.head(features), model(window), atol=1e-5, rtol=1e-5)


def test_with_point_returns_the_first_point_and_its_visibility() -> None:
    model, chunks = small(), random_windows()[0]
    with torch.inference_mode():
        features, point = model.encoder.with_point(chunks)
        torch.testing.assert_close(features, model.encoder(chunks))
    assert point.shape == (4, 3)
    assert ((point[:, :2] > 0) & (point[:, :2] < 1)).all()
    torch.testing.assert_close(point[:, 2], features[:, -1])


def test_first_point_can_be_trained_to_follow_a_square() -> None:
    """After 60 steps the first point is within 6 % of a white square on noise, on unseen frames."""
    model = small(stage_channels=(8, 8, 16, 16))
    rng = torch.Generator().manual_seed(2)

    def squares(n: int, columns: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
        frames = torch.randint(0, 120, (n, 2, 32, 48, 3), dtype=torch.uint8, generator=rng)
        x = torch.randint(columns[0], columns[1], (n,), generator=rng)
        y = torch.randint(0, 26, (n,), generator=rng)
        for i in range(n):
            frames[i, :, y[i] : y[i] + 6, x[i] : x[i] + 6] = 255
        return frames, torch.stack([(x + 3) / 48, (y + 3) / 32], dim=1)

    optimiser = torch.optim.AdamW(model.encoder.parameters(), lr=5e-3)
    model.train()
    for _ in range(60):
        frames, where = squares(24, (0, 42))
        loss = torch.nn.functional.smooth_l1_loss(model.encoder.with_point(frames)[1][:, :2] * 10, where * 10)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    model.eval()
    frames, where = squares(32, (0, 42))
    with torch.inference_mode():
        error = (model.encoder.with_point(frames)[1][:, :2] - where).abs().mean()
    assert error < 0.06


def test_points_do_not_depend_on_brightness() -> None:
    model, chunks = small(), random_windows()[0]
    chunks = chunks // 2 * 2
    with torch.inference_mode():
        bright, dim = model.encoder(chunks), model.encoder(chunks // 2)
    assert (bright[:, :6] - dim[:, :6]).abs().max() < 0.05


def test_sizes_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ValueError, match="multiple of 16"):
        KeypointRecipe(height=40, width=48, frames_per_chunk=2, chunks=4)
