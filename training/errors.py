"""The errors of this package, and how its commands print them.

TrainingError
├── RecipeError   a recipe that cannot be used: unknown key, wrong value
├── DataError     a data set or a file of it that is missing, damaged or of another format
├── RunError      a run's folder that cannot be resumed, evaluated or exported
├── FolderError   a folder of another framework that cannot be imported as a bundle
├── LossError     the loss is not finite
└── OutOfMemoryError  a step that does not fit into memory
"""

from __future__ import annotations

import errno
import sys
import tempfile

from engines.errors import EngineError
from engines.printable import printable
from streamclf.errors import StreamclfError
from streamclf.redact import redact


class TrainingError(Exception):
    """The base class of all errors that `training` raises on purpose."""


class RecipeError(TrainingError):
    """A recipe that cannot be used; the message names the key, the value and the remedy."""


class DataError(TrainingError):
    """A data set or a file of it that is missing, damaged or of another format."""


class RunError(TrainingError):
    """A run's folder that cannot be resumed, evaluated or exported."""


class FolderError(TrainingError):
    """A folder of another framework that cannot be imported; the message names the file, the key and the value."""


class LossError(TrainingError):
    """The loss is not finite; the message names the step and the part of the loss."""


class OutOfMemoryError(TrainingError):
    """A step that does not fit into memory; the message names the keys to lower."""


def print_error(error: Exception, place: object) -> int | None:
    """Print an expected error in one line on stderr, without credentials and control characters.

    `place` is named where an error of the disk names no file. Returns the exit code: 2 for wrong usage, 1 for a failure
    while running. Prints nothing and returns None if the error is a fault of the program.
    """
    if isinstance(error, OSError):
        text = _describe(error, place)
    elif isinstance(error, TrainingError | EngineError | StreamclfError):
        text = str(error)
    else:
        return None
    print(f"training: {printable(redact(text))}", file=sys.stderr, flush=True)
    return 2 if isinstance(error, RecipeError) else 1


def _describe(error: OSError, place: object) -> str:
    """Name the place of an operation that failed, the cause and the remedy."""
    cause = f"{error.strerror or error}; correct this"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):  # checkpoints pass through the folder of temporary files
        cause = f"no space left; free some there or in {tempfile.gettempdir()}"
    return f"{error.filename or place}: {cause}, and run the command again"
