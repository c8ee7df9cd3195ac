"""Every kind of model is an encoder and a head; ViViT and the published hybrid are those of their papers."""

from __future__ import annotations

import pytest
import timm
import torch
from pydantic import ValidationError
from safetensors.torch import save_file
from support.model_kinds import KINDS, VIVIT, parse, random_model, windows

from training.errors import RecipeError, RunError
from training.models import KINDS as REGISTERED
from training.models.flops import ModelCost, compute_cost
from training.models.hybrid import PublishedHead, StrongHead
from training.models.layers import full_last_layers
from training.models.positions import Positions, resize_grid
from training.models.vivit.recipe import SIZES
from training.models.vivit.tubelets import Tubelets

B16X2 = {"kind": "vivit", "size": "B", "patch": 16, "height": 224, "width": 224, "frames_per_chunk": 2, "chunks": 16}


def counted(words: dict, *, labels: int, whole: bool = True) -> ModelCost:
    recipe = parse(words)
    return compute_cost(
        lambda: recipe.build(labels=labels),
        chunks=recipe.chunks,
        frames_per_chunk=recipe.frames_per_chunk,
        height=recipe.height,
        width=recipe.width,
        whole=whole,
    )


def test_every_kind_is_tried_here():
    assert {words["kind"] for words in KINDS.values()} == set(REGISTERED)


@pytest.mark.parametrize("kind", KINDS)
def test_whole_window_equals_features_computed_one_chunk_at_a_time(kind):
    model, x = random_model(KINDS[kind]), windows(KINDS[kind], count=3)
    with torch.inference_mode():
        whole = model(x)
        features = torch.stack([model.encoder(x[:, i]) for i in range(x.shape[1])], dim=1)
        split = model.head(features)
        swapped = model(x.flip(1))
    assert whole.shape == (3, 5)
    assert (whole - split).abs().max() < 1e-5 * max(whole.abs().max(), 1)
    assert whole.std(dim=0).max() > 1e-3, "it says the same of every window; the comparison would say nothing"
    order = (whole - swapped).abs().max()
    assert order < 1e-6 if kind == "motion" else order > 1e-5, "what the order of chunks says to it"


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_learns_and_every_encoder_has_no_dropout_left(kind):
    model, x = random_model(KINDS[kind]), windows(KINDS[kind])
    with torch.inference_mode():
        assert torch.equal(model(x), model(x))
    model.train()
    (model(x) * torch.randn(2, 5)).sum().backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []
    backbone = {id(parameter) for parameter in model.backbone_parameters()}
    assert bool(backbone) == (kind != "motion"), "all encoders but the one that only measures learn"
    assert backbone < {id(parameter) for parameter in model.parameters()}


@pytest.mark.parametrize(
    ("variant", "millions", "gflops"),
    [
        ("joint", 88.9, 455.2),
        ("factorised_encoder", 115.1, 284.4),
        ("factorised_self", 117.3, 372.3),
        ("factorised_dot", 88.9, 277.1),
    ],
)
def test_b16x2_has_the_parameters_and_flops_of_the_paper(variant, millions, gflops):
    """Arnab et al. 2021, table 2: 32 frames of 224 x 224, 400 classes."""
    counts = counted({**B16X2, "variant": variant}, labels=400)
    assert counts.parameters / 1e6 == pytest.approx(millions, rel=0.01)
    assert counts.window_flops / 1e9 == pytest.approx(gflops, rel=0.01)


def test_class_only_last_layers_save_operations_and_change_nothing():
    words = KINDS["vivit-joint"]
    model, x = random_model(words), windows(words)
    with torch.inference_mode():
        short = model(x)
        with full_last_layers(model):
            long = model(x)
    assert torch.allclose(short, long, atol=1e-5)
    assert counted(words, labels=5, whole=False).head_flops < 0.7 * counted(words, labels=5).head_flops


@pytest.mark.parametrize("variant", ["joint", "factorised_encoder", "factorised_self", "factorised_dot"])
def test_sizes_of_the_paper_can_all_be_built(variant):
    parameters = []
    with torch.device("meta"):
        for size in SIZES:
            model = parse({**B16X2, "size": size, "variant": variant}).build(labels=400)
            parameters.append(sum(parameter.numel() for parameter in model.parameters()))
    assert parameters == sorted(parameters)
    assert parameters[3] > 300e6


def test_the_published_hybrid_is_reproduced_in_shape_and_count():
    """20 frames of 1,024 features, 5 classes; weight by weight as Keras counts them."""
    head = PublishedHead(chunks=20, features=1024, dropout=0.5, labels=5)
    attention = 4 * (1024 * 1024 + 1024)  # Keras: key_dim 1024, one head
    mlp = (1024 * 4 + 4) + (4 * 1024 + 1024)
    norms, positions, classifier = 2 * 2 * 1024, 20 * 1024, 1024 * 5 + 5
    total = sum(parameter.numel() for parameter in head.parameters())
    assert total == attention + mlp + norms + positions + classifier == 4_237_321
    assert head.positions.table.shape == (1, 20, 1024)
    words = {"kind": "hybrid", "head": "published", "height": 128, "width": 128, "chunks": 20}
    counts = counted(words, labels=5)
    assert (counts.feature, counts.head_parameters) == ((1024,), 4_237_321)


@pytest.mark.parametrize("head", ["published", "strong"])
def test_a_short_clip_is_what_its_frames_say(head):
    torch.manual_seed(0)
    sizes = {"chunks": 6, "features": 16, "dropout": 0.5, "labels": 3}
    if head == "published":
        model: torch.nn.Module = PublishedHead(**sizes)
    else:
        model = StrongHead(dim=16, heads=2, layers=2, drop_path=0.0, **sizes)
    model.eval()
    features = torch.randn(2, 6, 16)
    mask = torch.tensor([[True] * 4 + [False] * 2, [True] * 6])
    other = features.clone()
    other[0, 4:] = 9.0
    with torch.inference_mode():
        a, b = model(features, mask), model(other, mask)
        assert torch.allclose(a[0], b[0], atol=1e-5), "what is masked was read"
        assert torch.allclose(a[1], model(features)[1], atol=1e-5)
        assert not torch.allclose(a[0], model(features)[0], atol=1e-3)
        assert not torch.allclose(model(features)[0], model(other)[0], atol=1e-3)


def test_positions_are_interpolated_when_size_or_length_change():
    old = random_model(KINDS["vivit-joint"])
    for changed in ({"chunks": 5}, {"height": 64}, {"chunks": 2, "width": 32}):
        words = {**KINDS["vivit-joint"], **changed}
        new = parse(words).build(labels=5).eval()
        new.load_state_dict(old.state_dict())
        assert torch.equal(new.head.positions.table[:, 0], old.head.positions.table[:, 0])
        with torch.inference_mode():
            assert new(windows(words)).isfinite().all()
    ramp = torch.arange(8.0).reshape(1, 8, 1)
    assert torch.allclose(resize_grid(ramp, (8,), (4,)).flatten(), torch.tensor([0.5, 2.5, 4.5, 6.5]))
    plane = torch.arange(6.0).reshape(1, 6, 1)
    repeated = resize_grid(plane, (2, 3), (4, 2, 3)).reshape(4, 6)
    assert torch.allclose(repeated, plane.flatten().expand(4, 6), atol=1e-6)


def test_the_same_size_is_loaded_as_it_is_and_an_unknown_grid_is_not_guessed():
    places = Positions(grid=(2, 3), dim=4, class_token=True)
    again = Positions(grid=(2, 3), dim=4, class_token=True)
    again.load_state_dict(places.state_dict())
    assert torch.equal(again.table, places.table)
    wrong = {**places.state_dict(), "grid": torch.tensor([4, 5], dtype=torch.int32)}
    with pytest.raises(RuntimeError, match="size mismatch"):
        Positions(grid=(2, 2), dim=4, class_token=True).load_state_dict(wrong)


@pytest.fixture(scope="module")
def image_vit(tmp_path_factory):
    """A small image ViT of timm, and the file of its weights."""
    torch.manual_seed(5)
    words = {"img_size": 32, "patch_size": 16, "embed_dim": 32, "depth": 2, "num_heads": 2, "num_classes": 0}
    model = timm.create_model("vit_tiny_patch16_224", pretrained=False, **words).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    path = tmp_path_factory.mktemp("weights") / "vit.safetensors"
    save_file(model.state_dict(), path)
    return model, path


@pytest.mark.parametrize("inflation", ["central", "filter"])
def test_an_inflated_encoder_sees_a_still_picture_as_the_image_model_does(image_vit, inflation):
    model, path = image_vit
    words = {**VIVIT, "width": 32, "image_vit": str(path), "inflation": inflation}
    video = parse(words).build(labels=3).eval()
    picture = windows(words)[:, 0, :1].expand(-1, 2, -1, -1, -1)
    pixels = picture[:, 0].permute(0, 3, 1, 2) / 127.5 - 1
    with torch.inference_mode():
        expected = model.forward_features(pixels)[:, 0]
        assert (video.encoder(picture.contiguous()) - expected).abs().max() < 1e-4


def test_central_frame_starts_blind_to_the_others_and_filter_does_not():
    image = torch.randn(8, 3, 4, 4), torch.zeros(8)
    frames = torch.randint(0, 256, (1, 4, 8, 8, 3), dtype=torch.uint8)
    changed = frames.clone()
    changed[:, 0] = 0
    for inflation, blind in (("central", True), ("filter", False)):
        tubelets = Tubelets(height=8, width=8, frames=4, patch=4, dim=8)
        tubelets.start_from(*image, inflation)
        with torch.inference_mode():
            assert torch.allclose(tubelets(frames), tubelets(changed), atol=1e-6) == blind


@pytest.mark.parametrize("variant", ["joint", "factorised_self", "factorised_dot"])
def test_every_variant_starts_from_an_image_model(image_vit, variant):
    model, path = image_vit
    words = {**VIVIT, "width": 48, "variant": variant, "image_vit": str(path)}
    video = parse(words).build(labels=3)
    layer = video.head.stack.layers[1] if variant == "joint" else video.head.layers[1]
    assert torch.equal(layer.attention.k.weight, model.blocks[1].attn.qkv.weight[32:64])
    assert torch.equal(layer.mlp[2].bias, model.blocks[1].mlp.fc2.bias)
    if variant == "factorised_self":
        assert layer.time_attention.out.weight.abs().max() == 0
        assert layer.time_attention.v.weight.abs().max() > 0
    fresh = parse(words).without_weights()
    assert fresh.image_vit is None
    assert fresh.build(labels=3).state_dict().keys() == video.state_dict().keys()


def test_a_hybrid_takes_a_backbone_from_a_file_and_refuses_a_wrong_one(tmp_path):
    words = {**KINDS["hybrid"], "backbone_kwargs": {"pad_type": "same"}}
    torch.manual_seed(1)
    whole = timm.create_model("mobilenetv3_small_050", pretrained=False, num_classes=7, pad_type="same").eval()
    save_file(whole.state_dict(), tmp_path / "good.safetensors")
    recipe = {**words, "weights": str(tmp_path / "good.safetensors"), "mean": [0.5] * 3, "std": [0.5] * 3}
    encoder = parse(recipe).build(labels=3).eval().encoder
    picture = windows(words)[:, 0]
    pixels = picture[:, 0].permute(0, 3, 1, 2) / 127.5 - 1
    with torch.inference_mode():
        expected = whole.forward_head(whole.forward_features(pixels), pre_logits=True)
        assert (encoder(picture) - expected).abs().max() < 1e-4
    parse({**recipe, "frames_per_chunk": 2}).build(labels=3)  # six channels: its three are repeated
    cut = {name: value for name, value in whole.state_dict().items() if "blocks.1" not in name}
    save_file(cut, tmp_path / "cut.safetensors")
    with pytest.raises(RecipeError, match="do not fit the backbone"):
        parse({**recipe, "weights": str(tmp_path / "cut.safetensors")}).build(labels=3)
    (tmp_path / "pickle.pth").write_bytes(b"\x80\x04")
    with pytest.raises(RunError, match="a pickle may run anything"):
        parse({**recipe, "weights": str(tmp_path / "pickle.pth")}).build(labels=3)
    (tmp_path / "torn.safetensors").write_bytes(b"torn")
    with pytest.raises(RunError, match="not weights that can be read"):
        parse({**recipe, "weights": str(tmp_path / "torn.safetensors")}).build(labels=3)
    with pytest.raises(RecipeError, match="timm has no such model"):
        parse({**words, "backbone": "mobilenet_of_nobody"}).build(labels=3)


def test_weights_of_another_image_model_are_named(image_vit, tmp_path):
    _, path = image_vit
    for changes, said in (
        ({"dim": 48}, "patches are"),
        ({"layers": 3}, "depth in layers is 2"),
        ({"patch": 8}, "patches are"),
        ({"frames_per_chunk": 2, "input": "difference"}, "reads no frames"),
    ):
        with pytest.raises(RecipeError, match=said):
            parse({**VIVIT, "image_vit": str(path), **changes}).build(labels=3)
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(RecipeError, match="not an image ViT"):
        parse({**VIVIT, "image_vit": str(tmp_path / "other.safetensors")}).build(labels=3)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"kind": "lstm"}, "'lstm' found using 'kind' does not match"),
        ({**VIVIT, "height": 40}, "height=40"),
        ({**VIVIT, "heads": 5}, "heads=5"),
        ({**VIVIT, "variant": "factorised_dot", "heads": 1}, "give 2 or more"),
        ({**VIVIT, "variant": "factorised_self", "pool": "class"}, "no class token"),
        ({**VIVIT, "variant": "joint", "temporal_layers": 2}, "temporal_layers=2"),
        ({**VIVIT, "input": "difference", "frames_per_chunk": 1}, "frames_per_chunk of 2"),
        ({**KINDS["hybrid-published"], "dim": 8}, "dim: head published"),
        ({**KINDS["conv"], "kernel": 2}, "kernel=2"),
        ({**KINDS["conv"], "blocks": [1]}, "one number for each"),
        ({**KINDS["conv"], "patch": 4}, "Extra inputs"),
    ],
)
def test_words_that_do_not_fit_are_named(words, said):
    with pytest.raises(ValidationError) as caught:
        parse(words)
    assert said in str(caught.value)


def test_grey_models_read_one_channel_and_differences_know_no_light():
    grey, words = random_model(KINDS["vivit-grey"]), KINDS["vivit-grey"]
    x = windows(words)
    other = x.clone()
    other[..., 1:] = 0
    with torch.inference_mode():
        assert torch.equal(grey(x), grey(other))
    words = {**KINDS["hybrid-motion"], "input": "difference"}
    model = random_model(words)
    x = windows(words) // 2
    with torch.inference_mode():
        assert torch.allclose(model(x), model(x + 100), atol=1e-4)
