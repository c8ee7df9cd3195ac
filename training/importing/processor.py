"""Convert a folder's image or video processor to a size, a resize policy and a normalisation, as a bundle has them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

from training.errors import FolderError
from training.importing.config import Pair
from training.importing.folder import COMBINED_FILE, PROCESSOR_FILE, VIDEO_PROCESSOR_FILE, read_json

Triple: TypeAlias = tuple[float, float, float]

_TYPE_KEYS: Final = ("video_processor_type", "image_processor_type", "feature_extractor_type")

# Switches that a bundle implements or that do not change the pixels.
_SUPPORTED_SWITCHES = {
    "do_convert_rgb",
    "do_sample_frames",
    "do_resize",
    "do_center_crop",
    "do_rescale",
    "do_normalize",
}


# What each processor does where its file has no such key. An offset moves pixels by -1 after rescaling.
_DEFAULTS: Final[dict[str, dict[str, Any]]] = {
    "vivit": {"size": {"shortest_edge": 256}, "crop_size": 224, "rescale_factor": 1 / 127.5, "offset": True},
    "videomae": {"size": {"shortest_edge": 224}, "crop_size": 224},
    "timesformer": {
        "size": {"shortest_edge": 224},
        "crop_size": 224,
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
    },
    "vjepa2": {"crop_size": 256, "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]},
    "clip": {
        "size": {"shortest_edge": 224},
        "crop_size": 224,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
        "resample": 3,
    },
    "siglip": {"size": {"height": 224, "width": 224}, "do_center_crop": False, "resample": 3},
    "siglip2": {"do_center_crop": False},
    "llavaonevision": {
        "size": {"height": 384, "width": 384},
        "do_center_crop": False,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
        "resample": 3,
    },
}
_COMMON: Final[dict[str, Any]] = {
    "do_resize": True, "do_center_crop": True, "do_rescale": True, "do_normalize": True, "offset": False,
    "rescale_factor": 1 / 255, "image_mean": 0.5, "image_std": 0.5, "resample": 2, "default_to_square": False,
}  # fmt: skip
_MAX_AFFINE: Final = 1e6
"""A bound on mean and standard deviation of pixels scaled to 0..1, so that float32 keeps them."""
_FILTERS: Final = {0: "nearest", 1: "Lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "Hamming"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageProcessor:
    """The preprocessing of an imported bundle.

    `height` and `width` are the size of the bundle's frames; the encoder cuts `crop` (height, width) from their centre.
    A pixel scaled to 0..1 becomes (pixel - mean) / std. `frames` and `fps`: the number and rate of frames that the
    processor samples from a clip, where its file says so. `notes` lists the differences to the folder's own processor,
    for the model card.
    """

    height: int
    width: int
    resize: Literal["stretch", "crop"]
    crop: Pair
    mean: Triple
    std: Triple
    frames: int | None = None
    fps: float | None = None
    notes: tuple[str, ...]


def read_processor(folder: Path, image_size: Pair, *, any_size: bool = False) -> ImageProcessor:
    """Read the folder's image or video processor for a network that reads images of `image_size`.

    With `any_size` the processor's own size is taken instead. Raises `FolderError` for what a bundle cannot express.
    """
    path, tree = _read_file(folder)
    name = next((str(tree[key]) for key in _TYPE_KEYS if tree.get(key)), "")
    kind = re.sub(r"((Image|Video)Processor(Fast|Pil)?|FeatureExtractor)$", "", name).lower()
    if kind not in _DEFAULTS:
        raise FolderError(
            f"{path}: {name[:80] or 'a processor without a type'}: only the image and video processors of Vivit, "
            "VideoMAE, Timesformer, VJEPA2, LlavaOnevision (VideoPrism's), CLIP, Siglip and Siglip2 can be imported"
        )
    # As in transformers, a switch that is null is off.
    given = {key: False if value is None and _is_switch(key) else value for key, value in tree.items()}
    tree = {**_COMMON, **_DEFAULTS[kind], **{key: value for key, value in given.items() if value is not None}}
    _check_switches(path, tree)
    if kind == "vivit" and name == "VivitVideoProcessor":
        tree["offset"] = tree["do_rescale"]  # it has no such key
    if kind == "vjepa2":
        tree["size"] = _vjepa2_size(path, tree)
    if kind == "siglip2":
        tree["size"] = {"height": image_size[0], "width": image_size[1]}  # it chooses a size for each image
    mean, std = _affine(path, tree, vivit=kind == "vivit")
    height, width, resize, notes = _geometry(path, tree, image_size, any_size=any_size)
    if kind == "siglip2":
        notes += ("frames are stretched to a square; the folder's processor (NaFlex) nearly keeps their shape",)
    sampled = bool(tree.get("do_sample_frames"))
    return ImageProcessor(
        height=height,
        width=width,
        resize=resize,
        crop=_crop(path, tree) or (height, width),
        mean=mean,
        std=std,
        frames=_frames(path, tree) if sampled else None,
        fps=_number(path, tree, "fps") if sampled and tree.get("fps") is not None else None,
        notes=notes,
    )


def _read_file(folder: Path) -> tuple[Path, dict[str, Any]]:
    """Return the processor's file and keys, from the same file that transformers prefers."""
    combined = folder / COMBINED_FILE
    nested = read_json(combined) if combined.is_file() else {}
    if isinstance(nested.get("video_processor"), dict):
        return combined, nested["video_processor"]
    for name in (VIDEO_PROCESSOR_FILE, PROCESSOR_FILE):
        if (folder / name).is_file():
            return folder / name, read_json(folder / name)
    if isinstance(nested.get("image_processor"), dict):
        return combined, nested["image_processor"]
    raise FolderError(
        f"{folder}: has no processor: neither {VIDEO_PROCESSOR_FILE} nor {PROCESSOR_FILE}; download the folder again, "
        "or save the processor with save_pretrained"
    )


def _check_switches(path: Path, tree: dict[str, Any]) -> None:
    """Raise `FolderError` for a step that a bundle cannot do, and for a switch that is not true or false."""
    for key, value in sorted(tree.items()):
        if not _is_switch(key):
            continue
        if not isinstance(value, bool):
            raise FolderError(f"{path}: {key[:80]}={value!r:.80}: must be true or false")
        if value and key.startswith("do_") and key not in _SUPPORTED_SWITCHES:
            raise FolderError(f"{path}: {key[:80]}=true: a bundle cannot do this")


def _is_switch(key: str) -> bool:
    return key.startswith("do_") or key in ("offset", "default_to_square")


def _vjepa2_size(path: Path, tree: dict[str, Any]) -> dict[str, int]:
    """Return the size that V-JEPA 2's processor derives from its crop; it ignores the `size` in its file."""
    height, _ = _size(path, tree["crop_size"], "crop_size")
    return {"shortest_edge": int(height * 256 / 224)}


def _affine(path: Path, tree: dict[str, Any], *, vivit: bool) -> tuple[Triple, Triple]:
    """Combine rescaling, offset and normalisation into one (pixel - mean) / std for pixels scaled to 0..1.

    ViViT's processor multiplies by 1/127.5, subtracts 1 (`offset`, on by default) and then normalises the result. So a
    mean and std of 0.5 give pixels from -3 to 1, not from -1 to 1.
    """
    rescale, offset = tree["do_rescale"], vivit and tree["offset"]
    if offset and not rescale:
        raise FolderError(f"{path}: offset=true with do_rescale=false: the image processor itself rejects this")
    factor = _number(path, tree, "rescale_factor") if rescale else 1.0
    normal = tree["do_normalize"]
    means = _triple(path, tree, "image_mean") if normal else (0.0, 0.0, 0.0)
    stds = _triple(path, tree, "image_std") if normal else (1.0, 1.0, 1.0)
    if factor <= 0 or min(stds) <= 0:
        raise FolderError(f"{path}: rescale_factor={factor}, image_std={list(stds)}: both must be positive")
    # (255 p factor - offset - mean) / std  =  (p - (offset + mean) / (255 factor)) / (std / (255 factor))
    unit = 255 * factor
    shifted = [(float(offset) + mean) / unit for mean in means]
    scaled = [std / unit for std in stds]
    if not all(
        abs(shift) < _MAX_AFFINE and 1 / _MAX_AFFINE < scale < _MAX_AFFINE
        for shift, scale in zip(shifted, scaled, strict=True)
    ):
        raise FolderError(
            f"{path}: rescale_factor={factor}, image_mean={list(means)}, image_std={list(stds)}: no processor for "
            "pixels of 0 to 255 has such numbers"
        )
    return (shifted[0], shifted[1], shifted[2]), (scaled[0], scaled[1], scaled[2])


def _geometry(
    path: Path, tree: dict[str, Any], image_size: Pair, *, any_size: bool
) -> tuple[int, int, Literal["stretch", "crop"], tuple[str, ...]]:
    """Return height, width, resize policy and notes; the network reads the centre of `image_size`."""
    crop = _crop(path, tree)
    if not tree["do_resize"]:
        if crop not in (None, image_size) and not any_size:
            raise FolderError(f"{path}: crop_size={crop}: the network reads {image_size}")
        return (
            *(crop or image_size),
            "crop",
            ("the folder's processor does not resize; the bundle resizes and crops frames of any size",),
        )
    given = tree["size"]
    if isinstance(given, dict):
        given = {side: length for side, length in given.items() if length is not None}
    elif isinstance(given, int) and not tree["default_to_square"]:
        given = {"shortest_edge": given}
    policy: Literal["stretch", "crop"]
    if isinstance(given, dict) and set(given) == {"shortest_edge"}:
        edge = _side(path, given["shortest_edge"], "size.shortest_edge")
        height, width, policy = edge, edge, "crop"
    else:
        (height, width), policy = _size(path, given, "size"), "stretch"
    kept = crop or (height, width)
    if kept != image_size and not any_size:
        raise FolderError(
            f"{path}: frames become {kept[0]} x {kept[1]}, but config.json's image_size is "
            f"{image_size[0]} x {image_size[1]}; the two files belong to different models, or VideoPrism needs "
            "--interpolate-positions"
        )
    if kept[0] > height or kept[1] > width:
        raise FolderError(f"{path}: crop_size={kept} is larger than size={(height, width)}: a bundle does not pad")
    resample = tree["resample"]
    own = _FILTERS.get(resample, "another") if isinstance(resample, int) else "another"
    notes: tuple[str, ...] = (
        f"frames are resized with streamclf's area filter; the folder's processor uses a {own} filter",
    )
    if policy == "crop" and crop is None:
        notes += ("frames that are not square are cropped to their centre; the folder's processor does not crop them",)
    return height, width, policy, notes


def _crop(path: Path, tree: dict[str, Any]) -> Pair | None:
    """Return the size of the processor's centre crop, or None if it does not crop."""
    return _size(path, tree["crop_size"], "crop_size") if tree["do_center_crop"] else None


def _frames(path: Path, tree: dict[str, Any]) -> int | None:
    """Return the number of frames that the processor samples from a clip, or None. Raises `FolderError`."""
    given = tree.get("num_frames")
    if given is not None and (not isinstance(given, int) or isinstance(given, bool) or not 1 <= given <= 4096):
        raise FolderError(f"{path}: num_frames={given!r:.80}: must be a number from 1 to 4096")
    return given


def _size(path: Path, given: Any, name: str) -> Pair:
    """Parse a size as (height, width). Raises `FolderError`."""
    if isinstance(given, int):
        return _side(path, given, name), _side(path, given, name)
    if isinstance(given, list) and len(given) == 2:
        return _side(path, given[0], name), _side(path, given[1], name)
    if isinstance(given, dict):
        given = {side: length for side, length in given.items() if length is not None}
    if isinstance(given, dict) and set(given) == {"height", "width"}:
        return _side(path, given["height"], f"{name}.height"), _side(path, given["width"], f"{name}.width")
    raise FolderError(f"{path}: {name}={given!r:.80}: must have height and width, or for size: shortest_edge")


def _side(path: Path, given: Any, name: str) -> int:
    """Check one side's length in pixels. Raises `FolderError`."""
    if not isinstance(given, int) or isinstance(given, bool) or not 8 <= given <= 4096:
        raise FolderError(f"{path}: {name}={given!r:.80}: must be a number of pixels from 8 to 4096")
    return given


def _number(path: Path, tree: dict[str, Any], name: str) -> float:
    """Read a number. Raises `FolderError`."""
    given = tree[name]
    if not _is_number(given):
        raise FolderError(f"{path}: {name}={given!r:.80}: must be a number")
    return float(given)


def _triple(path: Path, tree: dict[str, Any], name: str) -> Triple:
    """Read one number for all channels or three numbers. Raises `FolderError`."""
    given = tree[name]
    values = [given] * 3 if _is_number(given) else given
    if not isinstance(values, list) or len(values) != 3 or not all(map(_is_number, values)):
        raise FolderError(f"{path}: {name}={given!r:.80}: must be three numbers")
    return float(values[0]), float(values[1]), float(values[2])


def _is_number(given: Any) -> bool:
    """Tell whether a value is a finite number; Python's JSON also reads NaN, Infinity and integers of any length."""
    return isinstance(given, int | float) and not isinstance(given, bool) and abs(given) < 1e30
