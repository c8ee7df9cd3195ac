"""Weights are safetensors: read here, by whoever needs them. A pickle is never read."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from training.errors import RunError

State = dict[str, Tensor]

WEIGHTS_FILE: Final = "model.safetensors"
"""As a run's folder has it, and those of Hugging Face."""


def read_weights(path: Path) -> State:
    """The tensors of a safetensors file, or of that in folder `path`.

    Raises `RunError` where there is none, or another format; what starts as a pickle does is not even parsed.
    """
    file = path / WEIGHTS_FILE if path.is_dir() else path
    try:
        with file.open("rb") as opened:
            start = opened.read(9)
        # A zip, as torch writes them, or a bare pickle; but a header's length, with which safetensors begins, may look
        # like either, and only there JSON follows.
        if start.startswith((b"PK", b"\x80")) and start[8:] != b"{":
            raise RunError(
                f"{file}: weights are read from .safetensors alone, since a pickle may run anything: load it where you "
                "trust it and write it with safetensors.torch.save_file"
            )
        return load_file(file)
    except OSError as error:
        raise RunError(
            f"{file}: not weights that can be read ({error.strerror or error}); give a .safetensors, or the folder of "
            "a finished run"
        ) from error
    except SafetensorError as error:
        said = str(error).splitlines()[0]
        raise RunError(
            f"{file}: not weights that can be read (not safetensors: {said}); write or download it again"
        ) from error
