"""Read weights from safetensors. Pickles are never read."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from safetensors import SafetensorError
from safetensors.torch import load, load_file
from torch import Tensor

from training.errors import RunError

State = dict[str, Tensor]

WEIGHTS_FILE: Final = "model.safetensors"
"""The name of the weights in a run's folder and in Hugging Face's folders."""


def read_weights(path: Path) -> State:
    """Read the tensors of a safetensors file, or of `model.safetensors` in the folder `path`.

    Raises `RunError` where the file is missing or has another format. A file that starts like a pickle is not parsed.
    """
    file = path / WEIGHTS_FILE if path.is_dir() else path
    try:
        with file.open("rb") as opened:
            start = opened.read(9)
        # A pickle is bare or in a zip, as torch writes it. A safetensors file begins with the length of its header,
        # which may look like either; but only there a JSON object follows.
        if start.startswith((b"PK", b"\x80")) and start[8:] != b"{":
            raise RunError(
                f"{file}: this looks like a pickle, and a pickle may run any code, so only .safetensors are read; load "
                "it on a machine where you trust it and write it with safetensors.torch.save_file"
            )
        if start == b"version h":
            raise RunError(f"{file}: a pointer of Git LFS, not the weights; run: git lfs pull")
        return load_file(file) if _is_utf8(file) else load(file.read_bytes())
    except OSError as error:
        raise RunError(
            f"{file}: weights cannot be read ({error.strerror or error}); give a .safetensors, or the folder of a "
            "finished run"
        ) from error
    except SafetensorError as error:
        reason = str(error).splitlines()[0]
        raise RunError(
            f"{file}: weights cannot be read (not safetensors: {reason}); write or download the file again"
        ) from error


def _is_utf8(path: Path) -> bool:
    """Tell whether the library safetensors accepts `path`; it refuses names in other encodings."""
    try:
        return bool(str(path).encode())
    except UnicodeEncodeError:
        return False
