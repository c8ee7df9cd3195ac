"""An imported bundle gives the logits of transformers for the same frames after the folder's own image processor."""

from __future__ import annotations

import shutil

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file, save_file
from support.checkpoints import check_refused

from engines.bundle import load_bundle
from engines.opening import open_engine
from training.errors import FolderError
from training.importing import import_folder
from training.importing.folder import read_config
from training.importing.model import load_model
from training.importing.processor import read_processor

transformers = pytest.importorskip("transformers")

LABELS = {0: "clap", 1: "wave", 2: "nothing"}
SIZES = {
    "image_size": 32, "num_frames": 4, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "intermediate_size": 65, "id2label": LABELS, "label2id": {name: index for index, name in LABELS.items()},
}  # fmt: skip
KINDS = {
    "vivit": ("Vivit", {"tubelet_size": [2, 16, 16]}, "VivitImageProcessor"),
    "vivit-no-bias": ("Vivit", {"tubelet_size": [2, 8, 16], "qkv_bias": False}, "VivitImageProcessor"),
    "videomae": ("VideoMAE", {"patch_size": 16}, "VideoMAEImageProcessor"),
    "videomae-first": ("VideoMAE", {"patch_size": 16, "use_mean_pooling": False}, "VideoMAEImageProcessor"),
    "videomae-eps": ("VideoMAE", {"patch_size": 16, "layer_norm_eps": 0.01}, "VideoMAEImageProcessor"),
    "timesformer": ("Timesformer", {"patch_size": 16}, "VideoMAEImageProcessor"),
    "timesformer-joint": (
        "Timesformer", {"patch_size": 16, "attention_type": "joint_space_time"}, "VideoMAEImageProcessor",
    ),
}  # fmt: skip
CROP = {"crop_size": {"height": 32, "width": 32}}
PROCESSORS = {
    "edge": {"size": {"shortest_edge": 32}, **CROP},
    "centre": {"size": {"shortest_edge": 37}, **CROP},
    "stretch": {
        "size": {"height": 40, "width": 48}, "image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.25], **CROP,
    },
    "as-it-is": {"do_resize": False, "do_center_crop": False, "do_normalize": False},
}  # fmt: skip


def save_folder(path, kind, processor="edge", **changes):
    """Save a random model with transformers; its weights are moved away from their initial values."""
    name, words, image_processor = KINDS[kind]
    torch.manual_seed(4)
    config = getattr(transformers, f"{name}Config")(**{**SIZES, **words, **changes})
    model = getattr(transformers, f"{name}ForVideoClassification")(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(path)
    getattr(transformers, image_processor)(**PROCESSORS[processor]).save_pretrained(path)
    return path


def transformers_logits(folder, kind, frames):
    """Return the logits of transformers for frames (F, H, W, 3) uint8 after the folder's image processor."""
    name, _, image_processor = KINDS[kind]
    model = getattr(transformers, f"{name}ForVideoClassification").from_pretrained(folder).eval()
    pixels = getattr(transformers, image_processor).from_pretrained(folder)(list(frames), return_tensors="pt")
    with torch.inference_mode():
        return model(pixel_values=pixels["pixel_values"]).logits[0].numpy()


def random_frames(frames, height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (frames, height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("processor", PROCESSORS)
@pytest.mark.parametrize("kind", KINDS)
def test_logits_equal_transformers(kind, processor, tmp_path):
    folder = save_folder(tmp_path / "saved", kind, processor)
    config = read_config(folder)
    bundled = read_processor(folder, config.crop)
    frames = random_frames(4, bundled.height, bundled.width)
    model = load_model(folder, config, bundled)
    chunks = torch.from_numpy(frames).reshape(1, config.chunks, -1, bundled.height, bundled.width, 3)
    with torch.inference_mode():
        ours = model(chunks)[0].numpy()
    expected = transformers_logits(folder, kind, frames)
    assert np.ptp(expected) > 0.05
    assert np.abs(ours - expected).max() < 1e-5


@pytest.mark.parametrize("kind", ["vivit", "videomae", "timesformer"])
def test_the_bundle_gives_the_logits_of_transformers(kind, tmp_path):
    folder = save_folder(tmp_path / "My Model", kind, "centre")
    bundle = import_folder(folder, tmp_path / "bundle", fps=5)
    spec = load_bundle(bundle.path).spec
    tubelet = 1 if kind == "timesformer" else 2
    assert (spec.name, spec.labels, spec.fps, spec.resize) == ("my-model", tuple(LABELS.values()), 5, "crop")
    assert (spec.height, spec.width, spec.frames_per_chunk, spec.chunks) == (37, 37, tubelet, 4 // tubelet)
    assert spec.feature_shape == (4, 32)
    assert "area filter" in (bundle.path / "README.md").read_text(encoding="utf-8")
    frames = random_frames(4, 37, 37, seed=1)
    encoder, head = (onnxruntime.InferenceSession(path) for path in (bundle.encoder_path, bundle.head_path))
    (features,) = encoder.run(None, {"frames": frames.reshape(-1, *spec.chunk_shape)})
    (logits,) = head.run(None, {"features": features[None]})
    assert np.abs(logits[0] - transformers_logits(folder, kind, frames)).max() < 1e-4


@pytest.mark.parametrize("labels", [3, 1])
def test_a_multi_label_model_has_the_probabilities_of_transformers(labels, tmp_path):
    """Each probability is the sigmoid of its logit, in the bundle's engine as in transformers."""
    names = dict(list(LABELS.items())[:labels])
    changes = {"id2label": names, "label2id": {name: number for number, name in names.items()}}
    problem = "multi_label_classification"
    folder = save_folder(tmp_path / "saved", "videomae", problem_type=problem, **changes)
    bundle = import_folder(folder, tmp_path / "bundle")
    spec = load_bundle(bundle.path).spec
    assert (spec.activation, spec.labels, spec.thresholds) == ("sigmoid", tuple(names.values()), {})
    assert "its labels are independent" in (bundle.path / "README.md").read_text(encoding="utf-8")
    frames = random_frames(4, spec.height, spec.width, seed=1)
    expected = torch.from_numpy(transformers_logits(folder, "videomae", frames)).sigmoid().numpy()
    engine = open_engine(bundle, backend="onnxruntime", precision="fp32")
    slots = np.arange(spec.chunks, dtype=np.int32)
    engine.encode(frames.reshape(-1, *spec.chunk_shape), slots)
    served = engine.classify(slots[None])[0]
    engine.close()
    assert np.abs(served - expected).max() < 1e-4
    assert labels == 1 or abs(served.sum() - 1) > 0.01


@pytest.fixture(scope="module")
def saved_vivit(tmp_path_factory):
    return save_folder(tmp_path_factory.mktemp("hf") / "saved", "vivit")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "bert"}, "model_type='bert'"),
        ({"architectures": ["VivitModel"]}, "has no classifier"),
        ({"hidden_act": "relu6"}, "hidden_act='relu6'"),
        ({"num_attention_heads": 5}, "not a multiple of 5 heads"),
        ({"num_frames": 5}, "num_frames=5"),
        ({"image_size": 40}, "image_size="),
        ({"num_channels": 1}, "num_channels"),
        ({"num_hidden_layers": 3}, "has no vivit.encoder.layer.2"),
        ({"num_hidden_layers": 1}, "do not belong to the model, such as vivit.encoder.layer.1"),
        ({"hidden_size": 64}, "belong to different models"),
        ({"id2label": {"0": "a", "2": "b"}}, "id2label"),
        ({"id2label": {"0": "a", "1": "a", "2": "b"}}, "'a' appears more than once"),
        ({"id2label": {"0": "a" * 257, "1": "b", "2": "c"}}, "has 257 characters"),
        ({"num_hidden_layers": "many"}, "num_hidden_layers"),
    ],
)
def test_a_config_that_a_bundle_cannot_express_is_refused(saved_vivit, tmp_path, changes, message):
    check_refused(saved_vivit, tmp_path, "config.json", changes, message)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_processor_type": "ConvNextImageProcessor"}, "ConvNextImageProcessor"),
        ({"do_pad": True}, "do_pad=true"),
        ({"do_rescale": False}, "offset=true"),
        ({"crop_size": {"height": 16, "width": 16}}, "image_size is"),
        ({"size": {"shortest_edge": 24}}, "does not pad"),
        ({"size": {"longest_edge": 32}}, "longest_edge"),
        ({"size": "large"}, "size='large'"),
        ({"image_mean": [0.5, 0.5]}, "three numbers"),
        ({"image_std": 0}, "must be positive"),
        ({"rescale_factor": "1/255"}, "must be a number"),
    ],
)
def test_a_processor_that_a_bundle_cannot_express_is_refused(saved_vivit, tmp_path, changes, message):
    check_refused(saved_vivit, tmp_path, "preprocessor_config.json", changes, message)


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json", "model.safetensors"])
def test_missing_and_damaged_files_are_named(saved_vivit, tmp_path, name):
    folder = tmp_path / "bad"
    shutil.copytree(saved_vivit, folder)
    (folder / name).write_bytes(b"\x80\x04torn")
    with pytest.raises(FolderError, match=name.replace(".", r"\.")):
        import_folder(folder, tmp_path / "bundle")
    (folder / name).unlink()
    with pytest.raises(FolderError, match=name.replace(".", r"\.")):
        import_folder(folder, tmp_path / "bundle")


def test_pickles_and_numbers_that_are_not_finite_are_refused(saved_vivit, tmp_path):
    folder = tmp_path / "bad"
    shutil.copytree(saved_vivit, folder)
    state = load_file(folder / "model.safetensors")
    state["classifier.bias"][0] = float("nan")
    save_file(state, folder / "model.safetensors")
    with pytest.raises(FolderError, match=r"classifier\.bias has values that are not finite numbers"):
        import_folder(folder, tmp_path / "bundle")
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04")
    with pytest.raises(FolderError, match="a pickle, which can run any code"):
        import_folder(folder, tmp_path / "bundle")
    with pytest.raises(FolderError, match="no such folder"):
        import_folder(tmp_path / "nowhere", tmp_path / "bundle")


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_full_size_b16x2_equals_transformers(tmp_path):
    """The layout of google/vivit-b-16x2-kinetics400: 32 frames of 224 x 224, cropped from 256 x 256, 400 classes."""
    torch.manual_seed(0)
    labels = {index: f"action {index}" for index in range(400)}
    config = transformers.VivitConfig(id2label=labels, label2id={name: index for index, name in labels.items()})
    folder = tmp_path / "vivit-b-16x2"
    transformers.VivitForVideoClassification(config).save_pretrained(folder)
    transformers.VivitImageProcessor().save_pretrained(folder)
    bundle = import_folder(folder, tmp_path / "bundle")
    frames = random_frames(32, 256, 256)
    encoder, head = (onnxruntime.InferenceSession(path) for path in (bundle.encoder_path, bundle.head_path))
    (features,) = encoder.run(None, {"frames": frames.reshape(16, 2, 256, 256, 3)})
    (logits,) = head.run(None, {"features": features[None]})
    expected = transformers_logits(folder, "vivit", frames)
    assert np.ptp(expected) > 0.5
    assert np.abs(logits[0] - expected).max() < 1e-4
