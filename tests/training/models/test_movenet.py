"""MoveNet's weights are read from the published TensorFlow.js files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from training.errors import RecipeError, RunError
from training.models.movenet import MoveNet, load_movenet, tensor_names
from training.models.pose import PoseRecipe


def write_tfjs(net: MoveNet, folder: Path, **changes: Any) -> Path:
    """Write `net` in the published format: TensorFlow's names and axis order, float16, one .bin."""
    tensors: list[dict[str, Any]] = []
    data = b""
    for conv, weight, bias in tensor_names(net):
        axes = (2, 3, 0, 1) if conv.groups > 1 else (2, 3, 1, 0)
        for name, value in ((weight, conv.weight.permute(axes)), (bias, conv.bias)):
            if value is not None:
                array = value.detach().numpy().astype(np.float16)
                full = "Net" + name.replace(r"\d+", str(len(tensors)))
                tensors.append({"name": full, "shape": list(array.shape), "quantization": {"dtype": "float16"}})
                data += array.tobytes()
    manifest = [{"paths": ["net.bin"], "weights": [tensor | {"dtype": "float32"} for tensor in tensors]}]
    folder.mkdir(exist_ok=True)
    (folder / "net.bin").write_bytes(data)
    (folder / "net.json").write_text(json.dumps({"weightsManifest": manifest} | changes))
    return folder / "net.json"


def test_weights_are_read_from_the_published_files(tmp_path: Path) -> None:
    torch.manual_seed(7)
    net = MoveNet(multiplier=0.25).half().float()
    path = write_tfjs(net, tmp_path / "net")
    recipe = PoseRecipe(height=64, width=96, chunks=5, multiplier=0.25, weights=path)
    model = recipe.build(labels=4).eval()
    images = torch.rand(1, 3, 64, 96) * 2 - 1
    with torch.inference_mode():
        for ours, theirs in zip(model.encoder.net(images), net(images), strict=True):
            torch.testing.assert_close(ours, theirs)
    missing = recipe.model_copy(update={"weights": Path("gone.json")})
    assert missing.without_weights().build(labels=4) is not None


def test_invalid_files_are_refused(tmp_path: Path) -> None:
    net = MoveNet(multiplier=0.25)
    path = write_tfjs(net, tmp_path / "net")
    with pytest.raises(RecipeError, match=r"net\.json: .* this network's .*model\.multiplier"):
        load_movenet(MoveNet(multiplier=1.0), path)
    with pytest.raises(RunError, match=r"none\.json: not a TensorFlow\.js model"):
        load_movenet(net, tmp_path / "none.json")
    (tmp_path / "net/net.bin").write_bytes(b"short")
    with pytest.raises(RunError, match=r"net\.json: not a TensorFlow\.js model"):
        load_movenet(net, path)
    empty = write_tfjs(net, tmp_path / "other", weightsManifest=[])
    with pytest.raises(RecipeError, match="has 0 tensors"):
        load_movenet(net, empty)
    path.write_text("[]")
    with pytest.raises(RunError, match="not a TensorFlow"):
        load_movenet(net, path)


def test_only_files_in_the_models_folder_are_read(tmp_path: Path) -> None:
    net = MoveNet(multiplier=0.25)
    path = write_tfjs(net, tmp_path / "net")
    (tmp_path / "net/net.bin").rename(tmp_path / "net.bin")
    path.write_text(path.read_text().replace('"net.bin"', '"../net.bin"'))
    with pytest.raises(RunError, match="not a TensorFlow"):
        load_movenet(net, path)
