"""A bundle receives the pixels that the folder's own processor makes, from any file that transformers writes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from engines.arrays import F32, U8
from streamclf.sources.resize import render_bgr
from training.errors import FolderError
from training.importing import import_folder, read_folder
from training.importing.model import load_model
from training.importing.processor import read_processor

transformers = pytest.importorskip("transformers")

SIZE = (32, 32)
CROP = {"crop_size": {"height": 32, "width": 32}}
CLASSES = (
    "VideoMAEImageProcessor", "VideoMAEImageProcessorPil", "VivitImageProcessor",
    "VideoMAEVideoProcessor", "VivitVideoProcessor", "TimesformerVideoProcessor",
)  # fmt: skip
VARIANTS: dict[str, dict[str, Any]] = {
    "edge": {"size": {"shortest_edge": 32}, **CROP},
    "larger-edge": {"size": {"shortest_edge": 41}, **CROP},
    "integer": {"size": 37, "crop_size": 32},
    "list": {"size": [40, 48], "crop_size": [32, 32]},
    "stretch": {"size": {"height": 40, "width": 36}, **CROP},
    "stretch-alone": {"size": {"height": 32, "width": 32}, "do_center_crop": False},
    "mean": {"size": {"shortest_edge": 32}, "image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.25], **CROP},
    "plain": {"size": {"shortest_edge": 32}, "do_normalize": False, **CROP},
    "factor": {"size": {"shortest_edge": 32}, "rescale_factor": 1 / 128, "image_mean": 0.4, "image_std": 0.3, **CROP},
    "bicubic": {"size": {"shortest_edge": 36}, "resample": 3, **CROP},
}


def draw_frames(height: int, width: int) -> U8:
    """Draw four smooth frames (4, height, width, 3): a wrong crop or a wrong scale changes every pixel."""
    coarse = np.random.default_rng(3).integers(0, 256, (4, 3, 4, 3), dtype=np.uint8)
    scaled = [cv2.resize(image, (width, height), interpolation=cv2.INTER_CUBIC) for image in coarse]
    return np.stack([np.asarray(image, np.uint8) for image in scaled])


def their_pixels(folder: Path, class_name: str, frames: U8) -> F32:
    """Return (F, 3, h, w) pixels from the processor of transformers."""
    processor = getattr(transformers, class_name).from_pretrained(folder)
    out = processor(list(frames) if "Image" in class_name else frames, return_tensors="pt")["pixel_values"]
    pixels: F32 = torch.as_tensor(out)[0].numpy()
    return pixels


def our_pixels(folder: Path, frames: U8) -> F32:
    """Return (F, 3, h, w) pixels as the service resizes frames and the encoder crops and normalises them."""
    found = read_folder(folder)
    encoder = load_model(folder, found.config, found.processor).encoder
    resized = np.empty((len(frames), found.shape.height, found.shape.width, 3), np.uint8)
    for frame, out in zip(frames, resized, strict=True):
        render_bgr(np.ascontiguousarray(frame[..., ::-1]), *out.shape[:2], found.processor.resize, out)
    window = torch.from_numpy(resized).reshape(-1, found.shape.frames_per_chunk, *resized.shape[1:])
    pixels: list[torch.Tensor] = []
    encoder.pixels.register_forward_hook(lambda _module, _inputs, output: pixels.append(output))
    with torch.inference_mode():
        encoder(window)
    out_pixels: F32 = pixels[0].flatten(0, 1).numpy()
    return out_pixels


def save(saved: Path, folder: Path, class_name: str, words: dict[str, Any]) -> Path:
    """Copy the model's folder, and save another processor in it."""
    shutil.copytree(saved, folder)
    (folder / "preprocessor_config.json").unlink()
    getattr(transformers, class_name)(**words).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("frame", [(64, 64), (60, 108), (108, 60)])
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("class_name", CLASSES)
def test_pixels_equal_those_of_transformers(
    saved: Path, tmp_path: Path, class_name: str, variant: str, frame: tuple[int, int]
) -> None:
    """The filters differ (area here, bilinear there), so smooth frames agree within a few grey levels."""
    folder = save(saved, tmp_path / "hf", class_name, VARIANTS[variant])
    frames = draw_frames(*frame)
    theirs, ours = their_pixels(folder, class_name, frames), our_pixels(folder, frames)
    assert theirs.shape == ours.shape == (4, 3, *SIZE)
    grey_level = np.ptp(theirs) / 255
    assert np.abs(ours - theirs).mean() < 3 * grey_level
    assert np.abs(ours - theirs).max() < 24 * grey_level


@pytest.mark.parametrize("class_name", CLASSES)
def test_pixels_are_exact_for_frames_of_the_right_size(saved: Path, tmp_path: Path, class_name: str) -> None:
    for variant in ("edge", "mean", "plain", "factor"):
        folder = save(saved, tmp_path / variant, class_name, VARIANTS[variant])
        frames = np.random.default_rng(1).integers(0, 256, (4, *SIZE, 3), dtype=np.uint8)
        assert np.abs(our_pixels(folder, frames) - their_pixels(folder, class_name, frames)).max() < 1e-5, variant


def test_the_file_that_transformers_prefers_is_read(saved: Path, tmp_path: Path) -> None:
    """A nested video processor, then video_preprocessor_config.json, then preprocessor_config.json."""
    folder = save(saved, tmp_path / "hf", "VideoMAEVideoProcessor", {**VARIANTS["edge"], "image_mean": 0.1})
    video = json.loads((folder / "video_preprocessor_config.json").read_text())
    image = {**video, "image_mean": 0.2, "image_processor_type": "VideoMAEImageProcessor", "video_processor_type": None}
    (folder / "preprocessor_config.json").write_text(json.dumps(image))
    combined = folder / "processor_config.json"
    for nested, mean in (
        ({"processor_class": "VideoMAEProcessor"}, 0.1),
        ({"image_processor": {**image, "image_mean": 0.3}}, 0.1),
        ({"video_processor": {**video, "image_mean": 0.4}, "image_processor": image}, 0.4),
    ):
        combined.write_text(json.dumps(nested))
        assert read_processor(folder, SIZE).mean == pytest.approx((mean,) * 3)
        loaded = transformers.AutoVideoProcessor.from_pretrained(folder)
        assert loaded.image_mean == mean
    combined.write_text(json.dumps({"image_processor": {**image, "image_mean": 0.3}}))
    (folder / "video_preprocessor_config.json").unlink()
    assert read_processor(folder, SIZE).mean == pytest.approx((0.2,) * 3)
    (folder / "preprocessor_config.json").unlink()
    assert read_processor(folder, SIZE).mean == pytest.approx((0.3,) * 3)
    combined.unlink()
    with pytest.raises(FolderError, match=r"has no processor: neither video_preprocessor_config\.json nor"):
        import_folder(folder, tmp_path / "bundle")


@pytest.mark.parametrize("class_name", ["VideoMAEImageProcessor", "VideoMAEVideoProcessor"])
@pytest.mark.parametrize("switch", ["do_pad", "do_rescale", "do_normalize", "do_center_crop"])
def test_a_switch_that_is_null_is_off(saved: Path, tmp_path: Path, class_name: str, switch: str) -> None:
    folder = save(saved, tmp_path / "hf", class_name, VARIANTS["edge"])
    path = next(folder.glob("*preprocessor_config.json"))
    path.write_text(json.dumps({**json.loads(path.read_text()), switch: None}))
    frames = np.random.default_rng(1).integers(0, 256, (4, *SIZE, 3), dtype=np.uint8)
    ours, theirs = our_pixels(folder, frames), their_pixels(folder, class_name, frames)
    assert np.abs(ours - theirs).max() < 1e-5 * np.ptp(theirs)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"do_resize": "false"}', "do_resize='false': must be true or false"),
        (f'{{"do_resize": "{"x" * 5000}"}}', "must be true or false"),
        (f'{{"size": "{"x" * 5000}"}}', "must have height and width"),
        (f'{{"video_processor_type": "{"x" * 5000}"}}', "can be imported"),
        ('{"do_pad": true}', "do_pad=true: a bundle cannot do this"),
        ('{"image_std": NaN}', "image_std=nan: must be three numbers"),
        ('{"image_std": [0.5, Infinity, 0.5]}', "must be three numbers"),
        ('{"image_mean": [0.5, "0.5", 0.5]}', "must be three numbers"),
        ('{"rescale_factor": 1e-300}', "no processor for pixels of 0 to 255"),
        (f'{{"rescale_factor": 1{"0" * 400}}}', "must be a number"),
        ('{"size": [32]}', "must have height and width"),
        ('{"size": {"shortest_edge": 32, "longest_edge": 64}}', "must have height and width"),
        ('{"size": {"shortest_edge": 32.5}}', "must be a number of pixels"),
        ('{"size": {}}', "must have height and width"),
        ('{"crop_size": {"shortest_edge": 32}}', "must have height and width"),
        ('{"crop_size": 64}', "frames become 64 x 64"),
        ('{"video_processor_type": "Qwen2VLVideoProcessor"}', "Qwen2VLVideoProcessor"),
        ('{"video_processor_type": null}', "a processor without a type"),
        ('[]', "must be a JSON object"),
    ],
)  # fmt: skip
def test_other_processors_are_refused(saved: Path, tmp_path: Path, text: str, message: str) -> None:
    folder = save(saved, tmp_path / "hf", "VideoMAEVideoProcessor", VARIANTS["edge"])
    path = folder / "video_preprocessor_config.json"
    changes = json.loads(text)
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes} if isinstance(changes, dict) else changes))
    with pytest.raises(FolderError) as caught:
        import_folder(folder, tmp_path / "bundle")
    assert message in str(caught.value)
    assert len(str(caught.value)) < 600
