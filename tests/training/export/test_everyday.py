"""The export of `everyday`, with small random weights: the real ones are no part of this project."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from support.onnx_graphs import run_graph
from typer.testing import CliRunner

from engines.bundle import Bundle, load_bundle
from engines.graphs.operators import PROFILES
from engines.graphs.profiles import Profile, prepare_graph
from engines.opening import open_engine
from training.__main__ import app
from training.builtin.everyday.groups import GROUPS, OTHER, RANGES, group_matrix
from training.builtin.everyday.model import Appearance, EverydayEncoder, load_backbone
from training.data.shape import Shape
from training.errors import RunError
from training.export.everyday import read_labels, write_everyday

SMALL = Shape(fps=10, frames_per_chunk=3, chunks=2, height=64, width=128)


def _backbone() -> torch.nn.Module:
    torch.manual_seed(3)
    return timm.create_model("mobilenetv2_035", num_classes=5, pad_type="same").eval()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    groups = torch.eye(5)[:, [0, 1, 4]]
    return write_everyday(
        _backbone(), ["a", "b", "c"], groups, tmp_path_factory.mktemp("b") / "everyday", shape=SMALL, digest="0" * 64
    )


def test_the_bundle_opens_and_names_its_parts(bundle: Bundle) -> None:
    assert list(bundle.spec.feature_parts) == ["appearance", "layout", "motion", "motion_map"]
    assert sum(bundle.spec.feature_parts.values()) == bundle.spec.feature_shape[0]
    assert bundle.spec.feature_parts["motion_map"] == 3 * 4 * 7
    engine = open_engine(bundle, backend="openvino", precision="fp32")  # compares the golden window
    engine.close()


@pytest.mark.parametrize("profile", PROFILES)
def test_every_tensorrt_reads_both_graphs(bundle: Bundle, profile: Profile) -> None:
    golden = bundle.golden()
    features = run_graph(bundle.encoder_path.read_bytes(), golden.frames, "frames")
    for path, name, array in (
        (bundle.encoder_path, "frames", golden.frames),
        (bundle.head_path, "features", features[None]),
    ):
        exact = run_graph(path.read_bytes(), array, name)
        prepared = prepare_graph(path.read_bytes(), name=path.name, profile=profile, precision="fp32")
        assert np.abs(run_graph(prepared.onnx, array, name) - exact).max() < 1e-4 * np.abs(exact).max()
        assert b".levels" not in prepared.onnx


def test_weights_take_a_quarter_of_their_size(bundle: Bundle) -> None:
    weights = sum(p.numel() for name, p in _backbone().named_parameters() if not name.startswith("classifier"))
    assert bundle.encoder_path.stat().st_size < 2 * weights + 400_000


def test_batch_norms_are_merged_without_a_change() -> None:
    backbone = _backbone()
    with torch.no_grad():
        for module in backbone.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.uniform_(-0.5, 0.5)
                module.running_var.uniform_(0.5, 2)
                module.weight.uniform_(0.5, 1.5)
                module.bias.uniform_(-0.2, 0.2)
    frame = torch.randint(0, 256, (2, 64, 128, 3), dtype=torch.uint8)
    with torch.inference_mode():
        pixels = frame.to(torch.float32).permute(0, 3, 1, 2) / 127.5 - 1
        expected = backbone.forward_features(pixels).mean(dim=(2, 3))
        actual, _ = Appearance(backbone)(frame.to(torch.float32))
    assert (actual - expected).abs().max() < 1e-4 * expected.abs().max()


def test_motion_map_shows_where_and_in_which_direction_things_move() -> None:
    encoder = EverydayEncoder(_backbone(), height=64, width=128, frames_per_chunk=3).eval()
    flow = torch.zeros(2 * 3, 2, 32, 64)  # three chunks of two pairs of frames
    flow[2:4, 0, 8:16, 9:18] = 1.5  # in the second chunk, the field of row 1, column 1 moves to the right
    maps = encoder.motion_map(flow).reshape(3, 3, 4, 7)
    expected = torch.zeros(4, 7)
    expected[1, 1] = 1
    assert torch.allclose(maps[1, 0], 1.5 * expected)
    assert torch.allclose(maps[1, 1], torch.zeros(4, 7))
    assert torch.allclose(maps[1, 2].exp() - 0.02, expected, atol=1e-4)
    assert torch.allclose(maps[0, 2].exp() - 0.02, torch.zeros(4, 7), atol=1e-4)


def test_each_class_belongs_to_one_group() -> None:
    single = [name for group, names in GROUPS.items() if group not in RANGES for name in names]
    bounds = [name for group in RANGES for name in GROUPS[group]]
    labels, matrix = group_matrix([*bounds, "wombat", *single])
    assert labels[-1] == OTHER
    assert torch.equal(matrix.sum(dim=1), torch.ones(len(matrix)))
    assert matrix[0, -1] == 1, "the background is something else"
    assert matrix[1 + len(bounds), -1] == 1
    with pytest.raises(RunError, match="no class"):
        group_matrix(["wombat"])


def test_names_of_classes_are_unique(tmp_path: Path) -> None:
    path = tmp_path / "labels.txt"
    path.write_text("background\nmaillot\nmaillot, tank suit\ntench, Tinca tinca\n" + "\n".join(map(str, range(997))))
    names = read_labels(path)
    assert names[:3] == ["maillot", "maillot, tank suit", "tench"]
    path.write_text("tench\n")
    with pytest.raises(RunError, match="1 lines; give 1001"):
        read_labels(path)


def test_other_weights_are_refused_in_one_line(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    path = tmp_path / "other.safetensors"
    save_file({"x": torch.zeros(3)}, path)
    with pytest.raises(RunError, match="not the weights of timm's mobilenetv2_100"):
        load_backbone(path)
    labels = tmp_path / "labels.txt"
    result = CliRunner().invoke(
        app, ["export-everyday", str(tmp_path / "no.safetensors"), "--labels", str(labels), "-o", str(tmp_path / "b")]
    )
    assert result.exit_code == 1
    assert len(result.stderr.strip().splitlines()) == 1


def test_the_built_in_bundle_is_the_one_that_the_code_describes() -> None:
    from streamclf.builtin_models import BUNDLES

    spec = load_bundle(BUNDLES / "everyday").spec
    assert dict(spec.feature_parts) == {"appearance": 1280, "layout": 384, "motion": 38, "motion_map": 84}
    assert list(spec.labels) == [*GROUPS, OTHER]
    assert (BUNDLES / "everyday" / "encoder.onnx").stat().st_size < 4_000_000


def test_a_folder_that_is_no_bundle_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(RunError, match="exists and is not a bundle"):
        write_everyday(_backbone(), ["a", "b"], torch.eye(5)[:, :2], tmp_path, shape=SMALL, digest="0" * 64)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
