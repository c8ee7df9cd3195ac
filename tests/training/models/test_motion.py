"""The motion model's features depend on motion, not on the content of the frames."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from training.export import onnx as onnx_export
from training.models.motion import LucasKanadeFlow, MotionModel, MotionRecipe

RECIPE = {"height": 64, "width": 96, "chunks": 3, "frames_per_chunk": 4}


def small(**changes: object) -> MotionModel:
    torch.manual_seed(0)
    model = MotionRecipe.model_validate(RECIPE | changes).build(labels=2)
    assert isinstance(model, MotionModel)
    with torch.no_grad():
        model.head.classify.weight.normal_(std=0.1)
    return model.eval()


def texture(seed: int, height: int = 112, width: int = 144) -> torch.Tensor:
    """Return (height, width) values from 0 to 255: soft spots, which the flow can match from nearby."""
    rough = torch.rand(1, 1, height // 8, width // 8, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(rough, size=(height, width), mode="bicubic")[0, 0].clamp(0, 1) * 255


def moving_chunk(image: torch.Tensor, dx: int, dy: int) -> torch.Tensor:
    """Return a chunk (4, 64, 96, 3) uint8 of the centre of `image`, which moves by (dx, dy) per frame."""
    frames = [image[24 - i * dy : 88 - i * dy, 24 - i * dx : 120 - i * dx] for i in range(4)]
    return torch.stack(frames)[..., None].expand(-1, -1, -1, 3).to(torch.uint8)


def moving_block(*, apart: bool, seed: int = 5) -> torch.Tensor:
    """Return a chunk with a still background and a block that moves as a whole, or whose quarters move apart."""
    frames = moving_chunk(texture(seed), 0, 0).clone()
    for i in range(4):
        for row in (0, 1):
            for column in (0, 1):
                dx, dy = ((2 * column - 1) * 2 * i, (2 * row - 1) * 2 * i) if apart else (2 * i, 0)
                part = texture(seed + 1)[row * 16 : row * 16 + 16, column * 16 : column * 16 + 16]
                top, left = 16 + 16 * row + dy, 32 + 16 * column + dx
                frames[i, top : top + 16, left : left + 16] = part[..., None].to(torch.uint8)
    return frames


def test_whole_window_equals_chunks_encoded_one_at_a_time() -> None:
    model = small()
    window = torch.stack([moving_block(apart=True), moving_block(apart=False), moving_chunk(texture(1), 2, 0)])[None]
    with torch.inference_mode():
        features = torch.stack([model.encoder(window[:, i]) for i in range(3)], dim=1)
        torch.testing.assert_close(model.head(features), model(window), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("dx", "dy"), [(2, 0), (-3, 2), (0, 5), (6, -4)])
def test_flow_is_in_pixels_of_the_half_size_frame(dx: int, dy: int) -> None:
    frames = moving_chunk(texture(3), dx, dy)[None].float().mean(dim=4)
    grey = F.avg_pool2d(frames, 2)[0, :, None]
    grey = (grey - grey.mean()) / grey.std()
    flow = small().encoder.flow(grey[:-1], grey[1:])[:, :, 8:-8, 8:-8]  # without the border, where new content enters
    expected = torch.tensor([dx / 2, dy / 2]).reshape(1, 2, 1, 1).expand_as(flow)
    assert (flow - expected).abs().mean() < 0.1


def test_still_frames_and_a_panning_camera_give_no_motion() -> None:
    """All still chunks have the same features, whatever they show; a pan gives nearly the same."""
    encoder = small().encoder
    with torch.inference_mode():
        still = encoder(torch.stack([moving_chunk(texture(1), 0, 0), moving_chunk(texture(2) / 3, 0, 0)]))
        torch.testing.assert_close(still[0], still[1], atol=1e-3, rtol=0)
        inside = moving_block(apart=True)[None]
        panned = moving_chunk(texture(1), 1, 0)[None]
        # Feature 1: the share of the frame that moves by a pixel or more.
        assert encoder(panned)[0, 1] - still[0, 1] < 0.3 * (encoder(inside)[0, 1] - still[0, 1])


def test_parts_that_move_apart_differ_from_a_whole_that_moves() -> None:
    encoder = small().encoder
    # After speeds (9) and differences (4): how far motion cancels out in blocks of 16, the last of three sizes.
    cancels = 9 + 4 + 2 * 7
    with torch.inference_mode():
        apart, whole = encoder(torch.stack([moving_block(apart=True), moving_block(apart=False)]))
    assert apart[cancels] > whole[cancels] + 0.3


def test_extra_repr_identifies_the_settings_of_an_encoder_without_weights() -> None:
    assert not small().encoder.state_dict()
    assert small().encoder.extra_repr() != small(iterations=1).encoder.extra_repr()
    with pytest.raises(ValueError, match="multiple of 32"):
        MotionRecipe.model_validate(RECIPE | {"height": 72})


def test_onnx_graph_gives_the_same_features(tmp_path) -> None:
    import onnxruntime

    model = small(iterations=1)  # tracing takes time in proportion to the iterations
    chunks = torch.stack([moving_block(apart=True), moving_chunk(texture(1), 2, 1)])
    onnx_export.write_graph(model.encoder, chunks, tmp_path / "encoder.onnx", "frames", "features")
    session = onnxruntime.InferenceSession(tmp_path / "encoder.onnx", providers=["CPUExecutionProvider"])
    for given in (chunks, moving_block(apart=False, seed=9)[None]):
        (features,) = session.run(None, {"frames": given.numpy()})
        with torch.inference_mode():
            assert np.abs(features - model.encoder(given).numpy()).max() < 1e-3


@pytest.mark.parametrize("finest", [None, 1])
def test_flow_with_fewer_iterations_at_the_largest_size(finest: int | None) -> None:
    flow = LucasKanadeFlow(height=32, width=48, patch_size=7, damping=0.02, iterations=2, finest_iterations=finest)
    assert flow.iterations == [finest or 2, 2, 2]
    image = texture(7, 64, 96) / 60
    before, after = (image[None, None, 16:48, 20 - dx : 68 - dx] for dx in (0, 2))
    measured = flow(before, after)[0, :, 8:-8, 8:-8]
    assert measured[0].median() == pytest.approx(2, abs=0.3)
    assert measured[1].median() == pytest.approx(0, abs=0.2)
