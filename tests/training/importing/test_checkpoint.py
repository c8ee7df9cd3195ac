"""Weights are read from one file or from shards, and everything else in a folder is refused with its remedy."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from training.errors import FolderError
from training.importing import import_folder
from training.importing.checkpoint import INDEX_FILE, read_state

transformers = pytest.importorskip("transformers")

WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def saved_shards(saved: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save the same model in shards."""
    folder = tmp_path_factory.mktemp("hf") / "shards"
    shutil.copytree(saved, folder)
    (folder / WEIGHTS).unlink()
    model = transformers.VideoMAEForVideoClassification.from_pretrained(saved)
    model.save_pretrained(folder, max_shard_size="60KB")
    assert (folder / INDEX_FILE).is_file()
    return folder


@pytest.fixture
def shards(saved_shards: Path, tmp_path: Path) -> Path:
    """Return a copy of the sharded folder that a test may change."""
    return Path(shutil.copytree(saved_shards, tmp_path / "shards"))


def write_index(folder: Path, **changes: object) -> None:
    tree = json.loads((folder / INDEX_FILE).read_text())
    (folder / INDEX_FILE).write_text(json.dumps({**tree, **changes}))


def weight_map(folder: Path) -> dict[str, str]:
    places: dict[str, str] = json.loads((folder / INDEX_FILE).read_text())["weight_map"]
    return places


def test_shards_give_the_same_bundle_as_one_file(saved: Path, shards: Path, tmp_path: Path) -> None:
    one, many = (import_folder(folder, tmp_path / folder.name / "b", fps=5) for folder in (saved, shards))
    assert np.array_equal(one.golden().logits, many.golden().logits)
    assert one.spec.labels == many.spec.labels == ("clap", "wave", "nothing")


def test_one_file_is_preferred_to_an_index_as_in_transformers(saved: Path, shards: Path) -> None:
    shutil.copy(saved / WEIGHTS, shards)
    write_index(shards, weight_map={"x": "gone.safetensors"})
    assert read_state(shards).keys() == read_state(saved).keys()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_shards_of_other_floats_are_read_as_float32(shards: Path, dtype: torch.dtype) -> None:
    before = read_state(shards)
    for path in shards.glob("*.safetensors"):
        save_file({name: tensor.to(dtype) for name, tensor in load_file(path).items()}, path)
    after = read_state(shards)
    assert all(tensor.dtype == torch.float32 for tensor in after.values())
    assert all(torch.equal(after[name], tensor.to(dtype).to(torch.float32)) for name, tensor in before.items())


def test_an_old_total_and_a_link_to_the_hubs_cache_do_not_matter(shards: Path, tmp_path: Path) -> None:
    write_index(shards, metadata={"total_size": 1})
    names = read_state(shards).keys()
    for path in shards.glob("*.safetensors"):
        path.rename(tmp_path / path.name)
        path.symlink_to(tmp_path / path.name)  # the hub's cache has links to ../../blobs
    assert read_state(shards).keys() == names


@pytest.mark.parametrize(
    "shard",
    ["../model.safetensors", "/etc/passwd", "/tmp/x.safetensors", "a/b.safetensors", "..\\x.safetensors", "x.bin",
     "model\x00.safetensors", "", "pytorch_model-00001-of-00002.bin"],
)  # fmt: skip
def test_a_shard_outside_the_folder_or_of_another_format_is_refused(shards: Path, shard: str) -> None:
    write_index(shards, weight_map={**weight_map(shards), "classifier.bias": shard})
    with pytest.raises(FolderError, match=r"a shard must be a \.safetensors file of this folder"):
        read_state(shards)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weight_map": {}}, "weight_map must map"),
        ({"weight_map": ["a"]}, "weight_map must map"),
        ({"weight_map": {"a": 1}}, "weight_map must map"),
        ({"weight_map": {"a": "x" * 3000 + ".safetensors"}}, "1 of 1 shards are missing"),
    ],
)
def test_a_damaged_index_is_refused(shards: Path, changes: dict[str, object], message: str) -> None:
    write_index(shards, **changes)
    with pytest.raises(FolderError, match=message) as caught:
        read_state(shards)
    assert len(str(caught.value)) < 600


def test_missing_shards_and_tensors_are_named(shards: Path) -> None:
    names = sorted(path.name for path in shards.glob("*.safetensors"))
    write_index(shards, weight_map={**weight_map(shards), "vanished.weight": names[0]})
    with pytest.raises(FolderError, match=r"1 of \d+ tensors are in no shard, such as vanished\.weight"):
        read_state(shards)
    (shards / names[1]).unlink()
    with pytest.raises(FolderError, match=rf"1 of {len(names)} shards are missing, such as {names[1]}"):
        read_state(shards)
    (shards / INDEX_FILE).unlink()
    with pytest.raises(FolderError, match=rf"{INDEX_FILE}: missing, and .* is one of several shards"):
        read_state(shards)


def test_a_tensor_in_two_shards_is_refused(shards: Path) -> None:
    one, other = sorted(shards.glob("*.safetensors"))[:2]
    name, tensor = next(iter(load_file(one).items()))
    save_file({**load_file(other), name: tensor + 1}, other)
    with pytest.raises(FolderError, match=f"{name} is also in {one.name}"):
        read_state(shards)


def test_a_torn_shard_and_a_pointer_of_git_lfs_are_named(shards: Path) -> None:
    path = sorted(shards.glob("*.safetensors"))[1]
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(FolderError, match=f"{path.name}: weights cannot be read"):
        read_state(shards)
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 4\n")
    with pytest.raises(FolderError, match=f"{path.name}: a pointer of Git LFS.*git lfs pull"):
        read_state(shards)


def test_a_quantised_checkpoint_is_refused(shards: Path) -> None:
    path = sorted(shards.glob("*.safetensors"))[0]
    save_file({name: tensor.to(torch.int8) for name, tensor in load_file(path).items()}, path)
    with pytest.raises(FolderError, match="has the type int8; a quantised checkpoint"):
        read_state(shards)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["pytorch_model.bin", "training_args.bin"], "has pytorch_model.bin, a pickle"),
        (["pytorch_model-00001-of-00002.bin", "pytorch_model.bin.index.json"], "00002.bin, a pickle"),
        (["training_args.bin", "optimizer.pt", "rng_state.pth", "scheduler.pt"], "model.safetensors: missing, and so"),
        (["best.ckpt"], "has best.ckpt, a pickle"),
        (["tf_model.h5"], "has tf_model.h5 \\(TensorFlow\\)"),
        (["flax_model.msgpack"], "has flax_model.msgpack \\(Flax\\)"),
        (["model.fp16.safetensors"], "has model.fp16.safetensors, but no model.safetensors; .* rename it"),
        (["adapter_config.json", "adapter_model.safetensors"], "an adapter .* merge_and_unload"),
    ],
)
def test_the_remedy_fits_what_the_folder_has(saved: Path, tmp_path: Path, names: list[str], message: str) -> None:
    for name in ("config.json", "preprocessor_config.json"):
        shutil.copy(saved / name, tmp_path)
    for name in names:
        (tmp_path / name).write_bytes(pickle.dumps([1]))
    with pytest.raises(FolderError, match=message):
        import_folder(tmp_path, tmp_path / "bundle")


def test_training_args_beside_the_weights_do_not_matter(saved: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(saved, tmp_path / "trained"))
    for name in ("training_args.bin", "optimizer.pt", "rng_state_0.pth"):
        (folder / name).write_bytes(pickle.dumps([1]))
    assert read_state(folder).keys() == read_state(saved).keys()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_frames": 4096, "image_size": 4096, "patch_size": 1}, "GB of features in one window"),
        ({"hidden_size": 65536, "intermediate_size": 262144, "num_hidden_layers": 400}, "config.json"),
        ({"hidden_size": 8192, "num_hidden_layers": 1, "intermediate_size": 262144}, "belong to different models"),
        ({"tubelet_size": 0}, "tubelet_size"),
        ({"patch_size": 0}, "patch_size"),
        ({"num_frames": 0}, "num_frames"),
    ],
)
def test_sizes_in_the_config_do_not_allocate_memory(
    saved: Path, tmp_path: Path, changes: dict[str, int], message: str
) -> None:
    """The weights are small, so a network of hundreds of gigabytes must not be built first."""
    folder = Path(shutil.copytree(saved, tmp_path / "large"))
    tree = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**tree, **changes}))
    with pytest.raises(FolderError, match=message):
        import_folder(folder, tmp_path / "bundle")


def test_a_run_and_a_bundle_are_not_taken_for_a_checkpoint(tmp_path: Path) -> None:
    for name, remedy in (("recipe.yaml", "export this run with"), ("spec.json", "this bundle needs no import")):
        (tmp_path / name).write_text("{}")
        with pytest.raises(FolderError, match=remedy):
            import_folder(tmp_path, tmp_path / "bundle")
        (tmp_path / name).unlink()


@pytest.mark.timeout(20)
def test_pipes_instead_of_files_do_not_block(saved: Path, tmp_path: Path) -> None:
    for name in ("config.json", "preprocessor_config.json", WEIGHTS):
        folder = Path(shutil.copytree(saved, tmp_path / name))
        (folder / name).unlink()
        os.mkfifo(folder / name)
        with pytest.raises(FolderError):
            import_folder(folder, tmp_path / "bundle")


def test_errors_about_large_values_stay_short(saved: Path, tmp_path: Path) -> None:
    text = "\x1b[2J" + "x" * 500_000
    changes = ({"model_type": text}, {"hidden_act": text}, {"problem_type": text}, {"architectures": [text]})
    for number, change in enumerate(changes):
        folder = Path(shutil.copytree(saved, tmp_path / str(number)))
        tree = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**tree, **change}))
        with pytest.raises(FolderError) as caught:
            import_folder(folder, tmp_path / "bundle")
        assert len(str(caught.value)) < 800
        assert "\x1b" not in str(caught.value)
