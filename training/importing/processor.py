"""Convert a folder's image processor to what a bundle can express: a size, a resize policy and a normalisation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from training.errors import FolderError
from training.importing.config import Pair
from training.importing.folder import PROCESSOR_FILE, read_json

Triple: TypeAlias = tuple[float, float, float]

# Switches that a bundle implements or that do not change the pixels.
_SUPPORTED_SWITCHES = {
    "do_convert_rgb",
    "do_sample_frames",
    "do_resize",
    "do_center_crop",
    "do_rescale",
    "do_normalize",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageProcessor:
    """The preprocessing of an imported bundle.

    `height` and `width` are the size of the bundle's frames; the encoder cuts `crop` (height, width) from their centre.
    A pixel scaled to 0..1 becomes (pixel - mean) / std. `notes` lists the differences to the folder's own processor,
    for the model card.
    """

    height: int
    width: int
    resize: Literal["stretch", "crop"]
    crop: Pair
    mean: Triple
    std: Triple
    notes: tuple[str, ...]


def read_processor(folder: Path, image_size: Pair) -> ImageProcessor:
    """Read preprocessor_config.json. Raises `FolderError` for what a bundle cannot express."""
    path = folder / PROCESSOR_FILE
    tree = read_json(path)
    name = str(tree.get("image_processor_type") or tree.get("feature_extractor_type") or "")
    kind = name.removesuffix("Fast").removesuffix("Pil")
    kind = kind.removesuffix("ImageProcessor").removesuffix("FeatureExtractor").lower()
    if kind not in ("vivit", "videomae"):
        raise FolderError(
            f"{path}: image_processor_type={name!r}: only Vivit's and VideoMAE's processors can be imported"
        )
    unsupported = sorted(
        key for key, value in tree.items() if key.startswith("do_") and value and key not in _SUPPORTED_SWITCHES
    )
    if unsupported:
        raise FolderError(f"{path}: {unsupported[0]}=true: a bundle cannot do this")
    mean, std = _affine(path, tree, vivit=kind == "vivit")
    height, width, resize, notes = _geometry(path, tree, image_size, shortest=256 if kind == "vivit" else 224)
    return ImageProcessor(height=height, width=width, resize=resize, crop=image_size, mean=mean, std=std, notes=notes)


def _affine(path: Path, tree: dict[str, Any], *, vivit: bool) -> tuple[Triple, Triple]:
    """Combine rescaling, offset and normalisation into one (pixel - mean) / std for pixels scaled to 0..1.

    ViViT's processor multiplies by 1/127.5, subtracts 1 (`offset`, on by default) and then normalises the result. So a
    mean and std of 0.5 give pixels from -3 to 1, not from -1 to 1.
    """
    rescale, offset = tree.get("do_rescale", True), vivit and tree.get("offset", True)
    if offset and not rescale:
        raise FolderError(f"{path}: offset=true with do_rescale=false: the image processor itself rejects this")
    factor = _number(path, tree, "rescale_factor", 1 / 127.5 if vivit else 1 / 255) if rescale else 1.0
    normal = tree.get("do_normalize", True)
    means = _triple(path, tree, "image_mean") if normal else (0.0, 0.0, 0.0)
    stds = _triple(path, tree, "image_std") if normal else (1.0, 1.0, 1.0)
    if factor <= 0 or min(stds) <= 0:
        raise FolderError(f"{path}: rescale_factor={factor}, image_std={list(stds)}: both must be positive")
    # (255 p factor - offset - mean) / std  =  (p - (offset + mean) / (255 factor)) / (std / (255 factor))
    unit = 255 * factor
    shifted = [(float(offset) + mean) / unit for mean in means]
    scaled = [std / unit for std in stds]
    return (shifted[0], shifted[1], shifted[2]), (scaled[0], scaled[1], scaled[2])


def _geometry(
    path: Path, tree: dict[str, Any], image_size: Pair, *, shortest: int
) -> tuple[int, int, Literal["stretch", "crop"], tuple[str, ...]]:
    """Return height, width, resize policy and notes; the network reads the centre of `image_size`."""
    cropped = tree.get("do_center_crop", True)
    crop = _size(path, tree.get("crop_size", 224), "crop_size") if cropped else None
    if not tree.get("do_resize", True):
        if crop not in (None, image_size):
            raise FolderError(f"{path}: crop_size={crop}: the network reads {image_size}")
        return (
            *image_size,
            "crop",
            ("the folder's processor does not resize; the bundle resizes and crops frames of any size",),
        )
    given = tree.get("size", {"shortest_edge": shortest})
    given = {"shortest_edge": given} if isinstance(given, int) else given
    policy: Literal["stretch", "crop"]
    if isinstance(given, dict) and set(given) == {"shortest_edge"}:
        edge = _side(path, given["shortest_edge"], "size.shortest_edge")
        height, width, policy = edge, edge, "crop"
    else:
        (height, width), policy = _size(path, given, "size"), "stretch"
    kept = crop or (height, width)
    if kept != image_size:
        raise FolderError(
            f"{path}: frames become {kept[0]} x {kept[1]}, but config.json's image_size is "
            f"{image_size[0]} x {image_size[1]}; the two files belong to different models"
        )
    if kept[0] > height or kept[1] > width:
        raise FolderError(f"{path}: crop_size={kept} is larger than size={(height, width)}: a bundle does not pad")
    notes: tuple[str, ...] = (
        "frames are resized with streamclf's area filter; the folder's processor uses a bilinear filter",
    )
    if policy == "crop" and crop is None:
        notes += ("frames that are not square are cropped to their centre; the folder's processor does not crop them",)
    return height, width, policy, notes


def _size(path: Path, given: Any, name: str) -> Pair:
    """Parse a size as (height, width). Raises `FolderError`."""
    if isinstance(given, int):
        return _side(path, given, name), _side(path, given, name)
    if isinstance(given, dict) and set(given) == {"height", "width"}:
        return _side(path, given["height"], f"{name}.height"), _side(path, given["width"], f"{name}.width")
    raise FolderError(f"{path}: {name}={given!r}: must have height and width, or for size: shortest_edge")


def _side(path: Path, given: Any, name: str) -> int:
    """Check one side's length in pixels. Raises `FolderError`."""
    if not isinstance(given, int) or isinstance(given, bool) or not 8 <= given <= 4096:
        raise FolderError(f"{path}: {name}={given!r}: must be a number of pixels from 8 to 4096")
    return given


def _number(path: Path, tree: dict[str, Any], name: str, default: float) -> float:
    """Read a number. Raises `FolderError`."""
    given = tree.get(name, default)
    if not isinstance(given, (int, float)) or isinstance(given, bool):
        raise FolderError(f"{path}: {name}={given!r}: must be a number")
    return float(given)


def _triple(path: Path, tree: dict[str, Any], name: str) -> Triple:
    """Read one number for all channels or three numbers, 0.5 by default. Raises `FolderError`."""
    given = tree.get(name, 0.5)
    values = [given] * 3 if isinstance(given, (int, float)) else given
    if not isinstance(values, list) or len(values) != 3 or not all(isinstance(v, (int, float)) for v in values):
        raise FolderError(f"{path}: {name}={given!r}: must be three numbers")
    return float(values[0]), float(values[1]), float(values[2])
