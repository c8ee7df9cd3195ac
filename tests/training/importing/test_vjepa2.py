"""V-JEPA 2 imports as a whole window: its logits are those of transformers."""

from __future__ import annotations

import numpy as np
import pytest
from support.checkpoints import (
    LABELS,
    TOLERANCE,
    change_json,
    check_refused,
    imported_logits,
    int8_logits,
    onnx_features,
    onnx_logits,
    random_frames,
    save_checkpoint,
    transformers_logits,
)

from engines.activation import softmax
from engines.opening import open_engine
from training.errors import FolderError
from training.importing import import_folder, read_folder, summarise_folder

transformers = pytest.importorskip("transformers")
if not hasattr(transformers, "VJEPA2ForVideoClassification"):
    pytest.skip("this version of transformers has no V-JEPA 2", allow_module_level=True)

SIZES = {
    "crop_size": 32, "frames_per_clip": 4, "hidden_size": 48, "num_attention_heads": 4, "num_hidden_layers": 2,
    "num_pooler_layers": 1, "pred_hidden_size": 24, "pred_num_attention_heads": 2, "pred_num_hidden_layers": 1,
    "id2label": LABELS, "label2id": {name: index for index, name in LABELS.items()},
}  # fmt: skip
CASES = {
    "published": {},
    "more positions": {"patch_size": 8, "frames_per_clip": 12},
    "odd crop": {"crop_size": 47},
    "values without rotation": {"num_attention_heads": 3},
    "no rotation at all": {"hidden_size": 24, "num_attention_heads": 8},
    "one frame per tubelet": {"tubelet_size": 1, "frames_per_clip": 3},
    "no bias": {"qkv_bias": False, "mlp_ratio": 2.7, "hidden_act": "gelu_pytorch_tanh"},
    "no self-attention in the pooler": {"num_pooler_layers": 0},
}


def save(path, words=None, processor=None):
    config = transformers.VJEPA2Config(**{**SIZES, **(words or {})})
    video_processor = transformers.VJEPA2VideoProcessor(**{"crop_size": config.crop_size, **(processor or {})})
    return save_checkpoint(path, transformers.VJEPA2ForVideoClassification(config), video_processor)


def expected_logits(folder, frames):
    return transformers_logits(folder, transformers.VJEPA2ForVideoClassification, frames)


@pytest.mark.parametrize("case", CASES)
def test_logits_equal_transformers(case, tmp_path):
    folder = save(tmp_path / "saved", CASES[case])
    shape = read_folder(folder).shape
    frames = random_frames(shape.window, shape.height, shape.width)
    expected = expected_logits(folder, frames)
    assert np.ptp(expected) > 0.05
    assert np.abs(imported_logits(folder, frames) - expected).max() < TOLERANCE


def test_the_bundle_gives_the_logits_of_transformers(tmp_path):
    folder = save(tmp_path / "saved")
    bundle = import_folder(folder, tmp_path / "bundle")
    spec = bundle.spec
    assert (spec.frames_per_chunk, spec.chunks, spec.fps, spec.height, spec.resize) == (2, 2, 3.0, 36, "crop")
    frames = random_frames(4, 36, 36)
    expected = expected_logits(folder, frames)
    assert np.abs(onnx_logits(bundle, onnx_features(bundle, frames)) - expected).max() < 1e-4
    int8 = int8_logits(bundle, tmp_path / "int8", frames)
    assert np.abs(int8 - expected).max() < 0.1 * np.abs(expected).max()
    pytest.importorskip("openvino")
    engine = open_engine(bundle, backend="openvino", precision="fp32")
    slots = np.arange(2, dtype=np.int32)
    engine.encode(frames.reshape(2, 2, 36, 36, 3), slots)
    served = engine.classify(slots[None])
    engine.close()
    assert np.abs(served[0] - softmax(expected)).max() < 1e-4


def test_the_processor_says_how_many_frames_it_samples(tmp_path):
    folder = save(tmp_path / "saved", processor={"do_sample_frames": True, "num_frames": 6})
    frames = random_frames(6, 36, 36)
    assert np.abs(imported_logits(folder, frames) - expected_logits(folder, frames)).max() < TOLERANCE


def test_the_processor_derives_its_size_from_the_crop(tmp_path):
    folder = save(tmp_path / "saved")
    change_json(folder / "video_preprocessor_config.json", size={"shortest_edge": 99})
    frames = random_frames(4, 36, 36)
    assert np.abs(imported_logits(folder, frames) - expected_logits(folder, frames)).max() < TOLERANCE


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return save(tmp_path_factory.mktemp("hf") / "saved")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"frames_per_clip": 5}, "frames_per_clip=5: not a multiple"),
        ({"frames_per_clip": 1}, "frames_per_clip=1: not a multiple"),
        ({"patch_size": 64}, "smaller than one patch"),
        ({"crop_size": 48}, "image_size is"),
        ({"in_chans": 1}, "in_chans"),
        ({"qkv_bias": False}, "do not belong to the model, such as vjepa2.encoder.layer.0.attention.key.bias"),
        ({"architectures": ["VJEPA2Model"]}, "has no classifier"),
        ({"num_pooler_layers": 2}, "has no pooler.self_attention_layers.1"),
        ({"num_pooler_layers": 0}, "do not belong to the model, such as pooler.self_attention_layers.0"),
        ({"mlp_ratio": 2.0}, "belong to different models"),
    ],
)
def test_a_config_that_a_bundle_cannot_express_is_refused(saved, tmp_path, changes, message):
    check_refused(saved, tmp_path, "config.json", changes, message)


def test_positions_of_other_models_are_not_interpolated(saved, tmp_path):
    with pytest.raises(FolderError, match=r"model_type=vjepa2: --interpolate-positions is for VideoPrism alone"):
        import_folder(saved, tmp_path / "bundle", interpolate=True)


def test_an_odd_number_of_sampled_frames_is_refused(tmp_path):
    folder = save(tmp_path / "saved", processor={"do_sample_frames": True, "num_frames": 5})
    with pytest.raises(FolderError, match="num_frames=5"):
        import_folder(folder, tmp_path / "bundle")


def test_encode_once_saves_almost_nothing_at_the_published_size(tmp_path):
    transformers.VJEPA2Config(frames_per_clip=16).save_pretrained(tmp_path)
    transformers.VJEPA2VideoProcessor().save_pretrained(tmp_path)
    summary = summarise_folder(tmp_path)
    assert summary["whole_window_flops"] / summary["served_flops"] < 1.01
