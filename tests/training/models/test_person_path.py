"""The path follows one person through a window, whoever is the largest in a single frame."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from training.models.movenet import JOINTS
from training.models.person_path import follow_person

FRAMES = 26
BODY = torch.rand(JOINTS, 2, generator=torch.Generator().manual_seed(0)) - 0.5
WIDTH_OF_SWING = 0.15


def person(
    *, x: Tensor, y: float = 0.0, size: Tensor | float = 0.6, confidence: Tensor | float = 0.9, swing: float = 0.0
) -> Tensor:
    """Return the features (T, F) of a person with the trunk at `x` (T,); `swing` is how far the arms move, in sizes."""
    frames = len(x)
    sizes = torch.as_tensor(size).expand(frames)
    points = BODY.repeat(frames, 1, 1)
    points[:, 7:11, 1] += swing * torch.sin(torch.arange(frames) * 1.3)[:, None]
    points = points * sizes[:, None, None] + torch.stack([x, torch.full_like(x, y)], dim=1)[:, None]
    sure = torch.as_tensor(confidence).expand(frames)
    return torch.cat([points.flatten(1), torch.full((frames, JOINTS), 0.5), sizes[:, None], sure[:, None]], dim=1)


def ordered(*people: Tensor) -> Tensor:
    """Return (1, T, M, F), in each frame in the order of confidence times size, as the encoder gives them."""
    x = torch.stack(people, dim=1)
    order = (x[..., -2] * x[..., -1]).argsort(dim=1, descending=True)
    return x.gather(1, order[..., None].expand_as(x))[None]


def still(x: float, frames: int = FRAMES) -> Tensor:
    return torch.full((frames,), x)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    pace=st.floats(0.5, 3.0),
    ratio=st.floats(0.5, 0.8),
    flicker=st.floats(0.0, 0.3),
    frames=st.integers(6, 40),
)
def test_two_people_who_cross_are_not_exchanged(pace: float, ratio: float, flicker: float, frames: int) -> None:
    """However fast two people cross, the path has one of them in all frames, the nearer one, who swings the arms."""
    x = torch.linspace(-pace / 2, pace / 2, frames) * min(1.0, frames / 26)
    noise = torch.rand(2, frames, generator=torch.Generator().manual_seed(frames)) * flicker
    player = person(x=x, size=0.6, confidence=0.95 - noise[0], swing=WIDTH_OF_SWING)
    other = person(x=-x, y=0.25, size=0.6 * ratio, confidence=0.95 - noise[1], swing=WIDTH_OF_SWING / 3)
    (chosen,) = follow_person(ordered(player, other))
    torch.testing.assert_close(chosen, player, rtol=0, atol=0)


def test_coach_behind_the_net_is_not_the_player() -> None:
    """A coach at rest is as large as the player, and larger in every second frame; the path follows the player."""
    player = person(x=torch.linspace(-0.3, 0.2, FRAMES), size=0.5, swing=WIDTH_OF_SWING)
    coach = person(x=still(0.6), size=0.5 + 0.04 * torch.cos(torch.arange(FRAMES) * torch.pi), swing=0.02)
    people = ordered(player, coach)
    assert not torch.equal(people[0, :, 0], player)
    assert not torch.equal(people[0, :, 0], coach)
    torch.testing.assert_close(follow_person(people)[0], player, rtol=0, atol=0)


def test_frame_without_the_player_repeats_the_frame_before() -> None:
    """Where the player is missing, the path does not take the coach for a frame."""
    confidence = torch.full((FRAMES,), 0.9)
    confidence[[7, 15]] = 0.0
    player = person(x=torch.linspace(-0.3, 0.2, FRAMES), confidence=confidence, swing=WIDTH_OF_SWING)
    player[[7, 15]] = 0.0
    coach = person(x=still(0.6), size=0.4)
    (chosen,) = follow_person(ordered(player, coach))
    expected = player.clone()
    expected[[7, 15]] = player[[6, 14]]
    torch.testing.assert_close(chosen, expected, rtol=0, atol=0)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(seed=st.integers(0, 1 << 30), swing=st.floats(0.0, 0.5), travel=st.floats(0.0, 3.0))
def test_one_person_alone_is_the_largest_of_each_frame(seed: int, swing: float, travel: float) -> None:
    """Beside the player there are only places anywhere in which the network hardly believes."""
    rng = torch.Generator().manual_seed(seed)
    player = person(x=torch.linspace(0, travel, FRAMES), swing=swing)
    noise = torch.randn(4, FRAMES, player.shape[1], generator=rng)
    noise[..., -2] = torch.rand(4, FRAMES, generator=rng)
    noise[..., -1] = 0.02 * torch.rand(4, FRAMES, generator=rng)
    people = ordered(player, *noise)
    torch.testing.assert_close(follow_person(people)[0], people[0, :, 0], rtol=0, atol=0)


def test_windows_of_a_batch_are_independent_and_gradients_reach_the_chosen_people() -> None:
    a = ordered(person(x=still(0.0), swing=WIDTH_OF_SWING), person(x=still(0.8), size=0.5))
    b = ordered(person(x=still(-0.8), size=0.5), person(x=still(0.1), size=0.55, swing=WIDTH_OF_SWING))
    both = torch.cat([a, b]).requires_grad_()
    chosen = follow_person(both)
    torch.testing.assert_close(chosen.detach(), torch.cat([follow_person(x) for x in (a, b)]))
    chosen.sum().backward()  # type: ignore[no-untyped-call]
    assert both.grad is not None
    assert both.grad.sum() == chosen.numel()


def test_one_frame_and_one_person_are_enough() -> None:
    people = ordered(person(x=still(0.0, 1)))
    torch.testing.assert_close(follow_person(people), people[:, :, 0])
