"""Safetensors are read as weights, and pickles are refused."""

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from training.errors import RunError
from training.weights import read_weights


@pytest.mark.parametrize("start", [b"\x80", b"PK"])
def test_safetensors_whose_header_length_looks_like_a_pickle_are_read(tmp_path: Path, start: bytes) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"w": torch.arange(3.0)}, path, metadata={"note": ""})
    empty = int.from_bytes(path.read_bytes()[:8], "little")
    # Pad the header to the length 0x0280, or to "PK" read as a number; both are multiples of 8, as lengths must be.
    wanted = int.from_bytes({b"\x80": b"\x80\x02", b"PK": b"PK"}[start], "little")
    save_file({"w": torch.arange(3.0)}, path, metadata={"note": "x" * (wanted - empty)})
    assert path.read_bytes().startswith(start)
    assert torch.equal(read_weights(path)["w"], torch.arange(3.0))


def test_pickle_is_refused_without_being_parsed(tmp_path: Path) -> None:
    bare, zipped = tmp_path / "bare.safetensors", tmp_path / "zipped.safetensors"
    bare.write_bytes(pickle.dumps({"w": [1.0]}))
    torch.save({"w": torch.ones(2)}, zipped)
    for path in (bare, zipped):
        with pytest.raises(RunError, match="a pickle may run any code"):
            read_weights(path)
