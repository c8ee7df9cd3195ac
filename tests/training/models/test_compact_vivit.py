"""The compact ViViT gives the same logits for a whole window as for its chunks, encoded one at a time."""

from __future__ import annotations

import pytest
import torch

from training.models.compact_vivit import ChunkDifferences, ClassStack, FactorisedViViT, TubeletEmbedding


def build(**changes) -> FactorisedViViT:
    torch.manual_seed(0)
    sizes = {
        "labels": 5,
        "height": 32,
        "width": 48,
        "frames_per_chunk": 2,
        "chunks": 4,
        "patch": 16,
        "stem": [(4, 8), (2, 12)],
        "dim": 24,
        "heads": 3,
        "spatial_layers": 3,
        "temporal_layers": 2,
        "mlp_ratio": 2.0,
        "drop_path": 0.3,
    }
    return FactorisedViViT(**{**sizes, **changes}).eval()


def windows(count: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, 4, 2, 32, 48, 3), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("changes", [False, True])
def test_whole_window_equals_chunks_encoded_one_at_a_time(changes):
    model, x = build(changes=changes), windows()
    with torch.inference_mode():
        whole = model(x)
        features = torch.stack([model.encoder(x[:, i]) for i in range(4)], dim=1)
        split = model.head(features)
    assert whole.shape == (2, 5)
    assert (whole - split).abs().max() < 1e-5
    assert whole.std() > 1e-3, "all logits are equal, so the comparison above proves nothing"


def test_chunk_differences_depend_on_the_two_neighbours_only():
    torch.manual_seed(0)
    changes, same = ChunkDifferences(dim=24), torch.randn(1, 1, 24).expand(1, 4, 24).clone()
    other = same.clone()
    other[:, 2:] += 1
    with torch.inference_mode():
        still, stepped = changes(same), changes(other)
    assert torch.allclose(still, still[:, :1].expand_as(still), atol=1e-6)
    assert torch.allclose(still[:, :2], stepped[:, :2], atol=1e-6)
    assert (still[:, 2] - stepped[:, 2]).abs().max() > (stepped[:, 3] - stepped[:, 2]).abs().max() * 1e-3
    assert not torch.allclose(stepped[:, 2], stepped[:, 3], atol=1e-3)


def test_head_depends_on_the_order_of_chunks():
    model, x = build(), windows()
    with torch.inference_mode():
        assert (model(x) - model(x.flip(1))).abs().max() > 1e-4


def test_class_only_last_layer_is_exact():
    torch.manual_seed(0)
    stack = ClassStack(tokens=6, dim=24, heads=3, layers=2, mlp_ratio=2.0, drop_path=0.0).eval()
    x = torch.randn(2, 6, 24)
    with torch.inference_mode():
        short = stack(x)
        stack.layers[-1].attention.class_only = False
        full = stack(x)
    assert torch.allclose(short, full, atol=1e-6)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float16, 0.01), (torch.bfloat16, 0.04)])
@pytest.mark.parametrize("frames", [1, 2, 3])
@pytest.mark.parametrize("stem", [[], [(2, 8)], [(4, 8), (2, 12)], [(4, 8), (4, 12)]])
def test_training_computes_the_values_and_gradients_of_the_exported_graph(stem, frames, dtype, tolerance):
    """The film is bright and changes little, so that a sum which cancels would lose the changes to rounding."""
    torch.manual_seed(0)
    embedding = TubeletEmbedding(frames=frames, patch=16, dim=24, stem=stem)
    scene = torch.randint(150, 250, (2, 1, 48, 64, 3))
    x = (scene + torch.randint(-3, 4, (2, frames, 48, 64, 3))).to(torch.uint8)
    target = torch.randn(2, 12, 24)

    def compute(embed, dtype):
        embedding.zero_grad()
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            values = embed(x).float()
        (values * target).mean().backward()
        weight = embedding.tree[0].weight.grad
        return [values.detach(), embedding.tree[0].bias.grad, weight[:, :3], weight[:, 3:]]

    exported = compute(lambda x: embedding._convolve(x).flatten(2).transpose(1, 2), torch.float32)
    assert exported[0].std() > 0.01
    for got, expected in zip(compute(embedding, dtype), exported, strict=True):
        assert (got - expected).norm() <= tolerance * expected.norm()


@pytest.mark.parametrize("stem", [[], [(4, 8)], [(4, 8), (2, 12)]])
def test_left_out_patches_do_not_change_the_others(stem):
    torch.manual_seed(0)
    embedding = TubeletEmbedding(frames=2, patch=16, dim=24, stem=stem)
    frames, keep = windows()[:, 0], torch.tensor([1, 4, 5])
    with torch.inference_mode():
        assert torch.allclose(embedding(frames)[:, keep], embedding(frames, keep), atol=1e-5)


def test_a_change_in_one_patch_changes_its_embedding_only():
    torch.manual_seed(0)
    embedding = TubeletEmbedding(frames=2, patch=16, dim=24, stem=[])
    grey = torch.full((1, 2, 32, 48, 3), 200, dtype=torch.uint8)
    changed = grey.clone()
    changed[:, 1, :16, :16] = 0
    with torch.inference_mode():
        still, moving = embedding(grey), embedding(changed)
    differs = (still - moving).abs().amax(dim=2)[0] > 1e-6
    assert differs.tolist() == [True] + [False] * 5


def test_stochastic_depth_is_off_in_eval():
    model, x = build(drop_path=0.9), windows()
    with torch.inference_mode():
        assert torch.equal(model(x), model(x))
        model.train()
        assert not torch.equal(model(x), model(x))


@pytest.mark.parametrize(
    ("changes", "named"),
    [({"height": 40}, "height=40"), ({"heads": 5}, "heads=5"), ({"stem": [(3, 8)]}, "multiply to 3")],
)
def test_sizes_that_do_not_fit_are_refused(changes, named):
    with pytest.raises(ValueError, match=named):
        build(**changes)
