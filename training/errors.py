"""The errors of this package.

TrainingError
├── RecipeError   a recipe that cannot be used: unknown key, wrong value
├── DataError     a data set or a file of it that is missing, damaged or of another format
├── RunError      a run's folder that cannot be resumed, evaluated or exported
├── FolderError   a folder of another framework that cannot be imported as a bundle
├── LossError     the loss is not finite
└── OutOfMemoryError  a step that does not fit into memory
"""


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
