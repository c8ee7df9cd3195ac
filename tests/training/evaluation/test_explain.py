"""Heat of PyTorch models lies where their answer is known to come from."""

from __future__ import annotations

import json
from pathlib import Path

import av
import pytest
import torch
from safetensors.torch import save_file
from support.clips import write_clip
from support.model_kinds import KINDS, parse_recipe, random_model, random_windows
from torch import Tensor, nn
from typer.testing import CliRunner

from training.__main__ import app
from training.errors import RecipeError, RunError
from training.evaluation.attention_rollout import has_rollout, rollout
from training.evaluation.explain import _choose_method, explain_run
from training.evaluation.grad_cam import grad_cam, has_feature_maps
from training.models import ClipModel
from training.models.layers import Attention
from training.models.vivit.factorised_dot import DotProductAttention

VIVITS = ["vivit-joint", "vivit-encoder", "vivit-self", "vivit-dot", "vivit-grey", "vivit-uniform"]
ROLLOUTS = [*VIVITS, "vivit-small-stem"]
CAMS = ["hybrid", "hybrid-published", "hybrid-motion", "conv", "attentive"]


@pytest.mark.parametrize("kind", ROLLOUTS)
def test_the_shares_of_all_patches_sum_to_one(kind: str) -> None:
    model, windows = random_model(KINDS[kind]), random_windows(KINDS[kind], count=1)
    before = model(windows)
    shares = rollout(model, windows[0])
    assert shares.shape == (3, 2, 3)
    assert float(shares.sum()) == pytest.approx(1, abs=1e-5)
    assert float(shares.min()) > 0
    assert torch.equal(model(windows), before), "the model is as before"


def attend_alike(model: ClipModel) -> None:
    """Set queries and keys to zero, so that all tokens of a sequence get the same attention."""
    with torch.no_grad():
        for part in model.modules():
            if isinstance(part, (Attention, DotProductAttention)):
                for linear in (part.q, part.k):
                    linear.weight.zero_()
                    linear.bias.zero_()


@pytest.mark.parametrize("kind", ROLLOUTS)
def test_equal_attention_gives_equal_shares(kind: str) -> None:
    model, windows = random_model(KINDS[kind]), random_windows(KINDS[kind], count=1)
    attend_alike(model)
    assert rollout(model, windows[0]).numpy() == pytest.approx(1 / 18, abs=1e-6)


@pytest.mark.parametrize("kind", ["vivit-joint", "vivit-encoder", "vivit-self", "vivit-dot"])
def test_a_patch_that_all_tokens_attend_to_has_the_largest_share(kind: str) -> None:
    """Keys are large only for the one bright patch: then most of the attention goes to it, in every layer."""
    torch.manual_seed(1)
    model = parse_recipe(KINDS[kind]).build(labels=5).eval()
    attend_alike(model)
    with torch.no_grad():
        for part in model.modules():
            if isinstance(part, nn.LayerNorm):
                nn.init.ones_(part.weight)
            if isinstance(part, (Attention, DotProductAttention)):
                part.q.bias.fill_(4)
                part.k.weight[:, 0] = 4  # the first feature of a token, which the embedding below sets
        embedding = next(part for part in model.encoder.modules() if isinstance(part, nn.Conv2d))
        embedding.weight.mul_(0.01)
        embedding.weight[0] = 0.1  # bright patches have a large first feature
        for name, parameter in model.named_parameters():
            if "positions" in name or "token" in name:
                parameter.mul_(0.01)
    chunks = torch.zeros(3, 2, 32, 48, 3, dtype=torch.uint8)
    chunks[:, :, :16, 32:] = 255
    shares = rollout(model, chunks)
    assert float(shares[:, 0, 2].sum()) > 0.4, "one of six patches"
    shares[:, 0, 2] = 0
    assert float(shares.max()) < 0.1


@pytest.mark.parametrize("kind", CAMS)
def test_heat_has_the_place_and_time_of_the_chunks(kind: str) -> None:
    model, windows = random_model(KINDS[kind]), random_windows(KINDS[kind], count=1)
    assert has_feature_maps(model)
    heat = grad_cam(model, windows[0], 2)
    assert heat.shape[0] == 3
    assert heat.shape[1] >= 2
    assert heat.shape[2] >= heat.shape[1]
    assert float(heat.min()) >= 0
    assert not heat.requires_grad


class CornerModel(ClipModel):
    """A CNN whose second logit is the brightness at the top right, and whose first logit is its negative."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(_Brightness(), _TopRight())
        self.head = _Mean()


class _Brightness(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1, 3, 1, 1) / 3)

    def forward(self, frames: Tensor) -> Tensor:
        x = frames.float().mean(dim=1).permute(0, 3, 1, 2) / 255
        return nn.functional.avg_pool2d(nn.functional.conv2d(x, self.weight), 8)


class _TopRight(nn.Module):
    def forward(self, maps: Tensor) -> Tensor:
        masked = torch.zeros_like(maps)
        masked[..., 0, -1] = 1
        return (maps * masked).sum(dim=(2, 3))


class _Mean(nn.Module):
    def forward(self, features: Tensor) -> Tensor:
        bright = features.mean(dim=(1, 2))
        return torch.stack([-bright, bright], dim=1)


def test_heat_lies_in_the_only_corner_that_is_bright() -> None:
    chunks = torch.zeros(3, 2, 32, 48, 3, dtype=torch.uint8)
    chunks[1:, :, :8, 40:] = 255
    heat = grad_cam(CornerModel(), chunks, 1)
    assert heat.shape == (3, 4, 6)
    assert float(heat[0].sum()) == 0, "nothing is bright in the first chunk"
    assert (heat[1:, 0, 5] > 0).all()
    heat[:, 0, 5] = 0
    assert float(heat.sum()) == 0
    assert float(grad_cam(CornerModel(), chunks, 0).sum()) == 0, "nothing raises the logit of darkness"


def test_the_method_follows_from_the_model() -> None:
    found = {kind: _choose_method("auto", random_model(KINDS[kind])) for kind in ("vivit-joint", "hybrid", "motion")}
    assert found == {"vivit-joint": "rollout", "hybrid": "grad-cam", "motion": "occlusion"}
    square = {"height": 32, "width": 32, "backbone_kwargs": {"img_size": 32}}
    vit = {**KINDS["hybrid"], "backbone": "vit_tiny_patch16_224", **square}
    image_transformer = parse_recipe(vit).build(labels=2)
    assert not has_feature_maps(image_transformer)
    assert not has_rollout(image_transformer)
    with pytest.raises(RecipeError, match="--method grad-cam: FactorisedEncoderViViT has no CNN"):
        _choose_method("grad-cam", random_model(KINDS["vivit-encoder"]))
    with pytest.raises(RunError, match="--method occlusion"):
        rollout(random_model(KINDS["conv"]), random_windows(KINDS["conv"], count=1)[0])


def write_recipe(folder: Path, kind: str, **data: object) -> tuple[Path, Path]:
    """Write a recipe with two classes, and random weights for it."""
    for label in ("still", "moving"):
        (folder / "clips" / label).mkdir(parents=True)
        write_clip(folder / "clips" / label / "1.mp4", frames=30)
    tree = {
        "name": "small",
        "fps": 10,
        "model": KINDS[kind],
        "data": {"kind": "clips", "path": str(folder / "clips"), "resize": "letterbox", **data},
        "optimiser": {"learning_rate": 0.001, "warmup_steps": 1, "steps": 2, "batch": 2},
    }
    (folder / "recipe.yaml").write_text(json.dumps(tree))
    save_file(random_model(KINDS[kind], labels=2).state_dict(), folder / "model.safetensors")
    return folder / "recipe.yaml", folder / "model.safetensors"


@pytest.mark.parametrize(
    ("kind", "method", "output"),
    [("vivit-encoder", "auto", "heat.mp4"), ("hybrid", "auto", "heat.html"), ("conv", "occlusion", "heat.html")],
)
def test_the_command_writes_a_film_or_a_page(kind: str, method: str, output: str, tmp_path: Path) -> None:
    recipe, weights = write_recipe(tmp_path, kind)
    film = write_clip(tmp_path / "film.mp4", frames=40)
    path = tmp_path / output
    arguments = [
        str(recipe),
        str(film),
        "-o",
        str(path),
        "--weights",
        str(weights),
        "--method",
        method,
        "--windows",
        "2",
    ]
    result = CliRunner().invoke(app, ["explain", *arguments, "--json"])
    assert result.exit_code == 0, result.output
    used = {"vivit-encoder": "rollout", "hybrid": "grad-cam", "conv": "occlusion"}[kind]
    found = json.loads(result.stdout)
    assert (found["method"], found["explained"]) == (used, 2)
    if output.endswith(".mp4"):
        with av.open(str(path)) as container:
            assert sum(1 for _ in container.decode(video=0)) == 40
        return
    page = path.read_text()
    assert "Explained windows" in page
    assert {"grad-cam": "Heat shows Grad-CAM", "occlusion": "Heat shows occlusion"}[used] in page


def test_a_film_is_explained_as_the_recipe_reads_films(tmp_path: Path) -> None:
    """The film shows the whole picture, rotated as the recipe says; without its area, it would lie on its side."""
    (tmp_path / "film").mkdir()
    film = write_clip(tmp_path / "film" / "film.mp4", frames=40)
    shapes = []
    for name, keys in (("region", {"rotate": 90, "region": [0, 0.5, 1, 1]}), ("whole", {"rotate": 90})):
        recipe, weights = write_recipe(tmp_path / name, "conv", **keys)
        explain_run(recipe, film, tmp_path / f"{name}.mp4", weights=weights, method="occlusion", windows=1)
        with av.open(str(tmp_path / f"{name}.mp4")) as container:
            shapes.append([frame.height > frame.width for frame in container.decode(video=0)])
    assert shapes == [[True] * 40] * 2


def test_bad_input_is_one_error(tmp_path: Path) -> None:
    recipe, weights = write_recipe(tmp_path, "conv")
    film = write_clip(tmp_path / "film.mp4", frames=20)
    heat = tmp_path / "heat.mp4"
    with pytest.raises(RecipeError, match="no trained weights; give its run's folder, or --weights FILE"):
        explain_run(recipe, film, heat)
    with pytest.raises(RecipeError, match=r"must end in \.mp4, \.gif or \.html"):
        explain_run(recipe, film, tmp_path / "heat.txt", weights=weights)
    with pytest.raises(RecipeError, match="is the film itself"):
        explain_run(recipe, film, film, weights=weights)
    with pytest.raises(RunError, match=r"absent\.mp4: no such file"):
        explain_run(recipe, tmp_path / "absent.mp4", heat, weights=weights)
    with pytest.raises(RunError, match="no such file or folder"):
        explain_run(tmp_path / "absent", film, heat)
    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(RunError, match="not this model's weights"):
        explain_run(recipe, film, heat, weights=tmp_path / "other.safetensors")
    assert not heat.exists()
