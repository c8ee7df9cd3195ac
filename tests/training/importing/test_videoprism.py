"""VideoPrism splits exactly: each frame is encoded once, and each window's logits are those of transformers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
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
from training.importing import import_folder, summarise_folder

transformers = pytest.importorskip("transformers")
if not hasattr(transformers, "VideoPrismForVideoClassification"):
    pytest.skip("this version of transformers has no VideoPrism", allow_module_level=True)

SIZES = {
    "image_size": 36, "num_frames": 4, "hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 64,
    "num_spatial_layers": 2, "num_temporal_layers": 2, "id2label": LABELS,
    "label2id": {name: index for index, name in LABELS.items()},
}  # fmt: skip
SQUARE = {"size": {"height": 36, "width": 36}, "do_normalize": False}
CASES = {
    "published": ({}, SQUARE),
    "low cap": ({"attn_logit_softcapping": 0.5}, SQUARE),
    "no bias": ({"qkv_bias": False, "hidden_act": "gelu_new"}, SQUARE),
    "odd width of the pooling heads": ({"intermediate_size": 67}, SQUARE),
    "odd size": ({"image_size": 47}, {"size": {"height": 47, "width": 47}}),
    "not square": (
        {"image_size": [36, 54], "tubelet_size": [1, 9, 18]},
        {"size": {"height": 36, "width": 54}, "image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.25]},
    ),
    "centre crop": ({}, {"size": {"shortest_edge": 41}, "do_center_crop": True, "crop_size": 36}),
}


def save(path, words=None, processor=None):
    config = transformers.VideoPrismVisionConfig(**{**SIZES, **(words or {})})
    video_processor = transformers.LlavaOnevisionVideoProcessor(**(processor or SQUARE))
    return save_checkpoint(path, transformers.VideoPrismForVideoClassification(config), video_processor)


def expected_logits(folder, frames, **words):
    return transformers_logits(folder, transformers.VideoPrismForVideoClassification, frames, **words)


@pytest.mark.parametrize("case", CASES)
def test_logits_equal_transformers(case, tmp_path):
    folder = save(tmp_path / "saved", *CASES[case])
    _, height, width, _ = summarise_folder(folder)["input"]
    frames = random_frames(4, height, width)
    expected = expected_logits(folder, frames)
    assert np.ptp(expected) > 0.05
    assert np.abs(imported_logits(folder, frames) - expected).max() < TOLERANCE


def test_each_frame_is_encoded_once_for_all_windows(tmp_path):
    folder = save(tmp_path / "VideoPrism of mine")
    bundle = import_folder(folder, tmp_path / "bundle")
    spec = bundle.spec
    assert (spec.name, spec.frames_per_chunk, spec.chunks, spec.fps) == ("videoprism-of-mine", 1, 4, 0.4)
    assert spec.feature_shape == (4, 32), "all patches of a frame"
    frames = random_frames(6, 36, 36)
    features = onnx_features(bundle, frames)
    expected = [expected_logits(folder, frames[start : start + 4]) for start in range(3)]
    for start, logits in enumerate(expected):
        assert np.abs(onnx_logits(bundle, features[start : start + 4]) - logits).max() < 1e-4
    pytest.importorskip("openvino")
    engine = open_engine(bundle, backend="openvino", precision="fp32")
    slots = np.arange(6, dtype=np.int32)
    engine.encode(frames[:, None], slots)
    served = engine.classify(np.stack([slots[start : start + 4] for start in range(3)]))
    engine.close()
    assert np.abs(served - softmax(np.stack(expected))).max() < 1e-4
    int8 = int8_logits(bundle, tmp_path / "int8", frames[:4])
    assert np.abs(int8 - expected[0]).max() < 0.1 * np.abs(expected[0]).max()
    card = (bundle.path / "README.md").read_text(encoding="utf-8")
    assert "2 spatial and 2 temporal layers" in card
    assert "bicubic" in card


@pytest.mark.parametrize(
    ("processor", "frames"),
    [
        ({"size": {"height": 54, "width": 54}, "do_normalize": False}, 4),
        ({"size": {"height": 36, "width": 72}}, 4),
        ({**SQUARE, "do_sample_frames": True, "num_frames": 7}, 7),
        ({"size": {"height": 18, "width": 18}, "do_sample_frames": True, "num_frames": 2}, 2),
    ],
)
def test_interpolated_positions_equal_transformers(processor, frames, tmp_path):
    folder = save(tmp_path / "saved", processor=processor)
    with pytest.raises(FolderError, match="--interpolate-positions"):
        import_folder(folder, tmp_path / "bundle")
    film = random_frames(frames, *(processor["size"][side] for side in ("height", "width")))
    expected = expected_logits(folder, film, interpolate_pos_encoding=True)
    assert np.abs(imported_logits(folder, film, interpolate=True) - expected).max() < TOLERANCE


def test_the_processor_says_how_many_frames_it_samples(tmp_path):
    folder = save(tmp_path / "saved", processor={**SQUARE, "do_sample_frames": True, "fps": 5.0})
    assert summarise_folder(folder)["hop_s"] == 0.2


def test_processors_that_transformers_nests_in_one_file_are_read(tmp_path):
    folder = save(tmp_path / "saved", processor={**SQUARE, "image_mean": [0.1, 0.2, 0.3], "do_normalize": True})
    frames = random_frames(4, 36, 36)
    expected = imported_logits(folder, frames)
    nested = (folder / "video_preprocessor_config.json").read_text(encoding="utf-8")
    (folder / "processor_config.json").write_text(f'{{"video_processor": {nested}}}', encoding="utf-8")
    change_json(folder / "video_preprocessor_config.json", do_normalize=False)
    assert (imported_logits(folder, frames) == expected).all()
    assert np.abs(expected_logits(folder, frames) - expected).max() < TOLERANCE


def test_weights_in_shards_and_in_half_precision_are_read(tmp_path):
    folder = save(tmp_path / "saved")
    frames = random_frames(4, 36, 36)
    model = transformers.VideoPrismForVideoClassification.from_pretrained(folder).to(torch.bfloat16)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="20KB")
    assert len(list(folder.glob("*.safetensors"))) > 2
    rounded = transformers.VideoPrismForVideoClassification.from_pretrained(folder, dtype=torch.float32).eval()
    pixels = torch.from_numpy(frames).permute(0, 3, 1, 2)[None] / 255
    with torch.inference_mode():
        expected = rounded(pixels).logits.flatten().numpy()
    assert np.abs(imported_logits(folder, frames) - expected).max() < TOLERANCE


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return save(tmp_path_factory.mktemp("hf") / "saved")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tubelet_size": [2, 18, 18]}, "tubelet_size.0: Input should be 1"),
        ({"tubelet_size": [1, 64, 64]}, "smaller than one patch"),
        ({"attn_logit_softcapping": 0}, "attn_logit_softcapping"),
        ({"num_frames": 8}, "head.positions has shape"),
        ({"num_temporal_layers": 3}, "has no vision_model.temporal_layers.2"),
        ({"num_spatial_layers": 1}, "do not belong to the model, such as vision_model.spatial_layers.1"),
        ({"qkv_bias": False}, "do not belong to the model, such as head.k_proj.bias"),
        ({"architectures": ["VideoPrismVisionModel"]}, "has no classifier"),
        ({"model_type": "videoprism"}, "model_type='videoprism': only vivit"),
        ({"intermediate_size": 128}, "belong to different models"),
    ],
)
def test_a_config_that_a_bundle_cannot_express_is_refused(saved, tmp_path, changes, message):
    check_refused(saved, tmp_path, "config.json", changes, message)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"video_processor_type": "Qwen2VLVideoProcessor"}, "Qwen2VLVideoProcessor"),
        ({"size": {"height": 54, "width": 54}}, "--interpolate-positions"),
        ({"do_pad": True}, "do_pad=true"),
        ({"do_normalize": True, "image_mean": [float("nan"), 0.5, 0.5]}, "image_mean=[nan, 0.5, 0.5]: must be three"),
        ({"do_normalize": True, "image_std": 10**400}, "must be three numbers"),
        ({"do_sample_frames": True, "num_frames": 0}, "num_frames=0"),
        ({"do_sample_frames": True, "num_frames": 5}, "num_frames=5, but the model reads 4"),
        ({"do_sample_frames": True, "fps": "fast"}, "fps='fast'"),
        ({"do_sample_frames": True, "fps": 0}, "fps=0"),
    ],
)
def test_a_processor_that_a_bundle_cannot_express_is_refused(saved, tmp_path, changes, message):
    check_refused(saved, tmp_path, "video_preprocessor_config.json", changes, message)


@pytest.mark.parametrize(
    ("sizes", "parameters", "factor"),
    [
        ({}, 119.1, 3.49),
        (
            {
                "hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16, "num_frames": 8,
                "num_spatial_layers": 24,
            },
            362.4,
            4.07,
        ),
    ],
    ids=["base", "large"],
)  # fmt: skip
def test_the_saving_at_the_published_sizes(sizes, parameters, factor, tmp_path):
    transformers.VideoPrismVisionConfig(**sizes).save_pretrained(tmp_path)
    transformers.LlavaOnevisionVideoProcessor(size={"height": 288, "width": 288}).save_pretrained(tmp_path)
    summary = summarise_folder(tmp_path)
    assert summary["parameters"] == pytest.approx(parameters * 1e6, rel=1e-3)
    assert summary["whole_window_flops"] / summary["served_flops"] == pytest.approx(factor, abs=0.01)
