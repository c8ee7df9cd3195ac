"""What can go wrong in this package.

TrainingError
├── RecipeError   a recipe that cannot be used: unknown key, wrong value
├── DataError     footage or a data set that is not what it should be
├── RunError      a run's folder that cannot be resumed, evaluated or exported
├── FolderError   a model's folder from elsewhere that cannot become a bundle
├── LossError     the loss is not a number any more
└── OutOfMemoryError  a step that does not fit into memory
"""


class TrainingError(Exception):
    """Root of every error that `training` raises on purpose."""


class RecipeError(TrainingError):
    """A recipe that cannot be used; the message names key, value and remedy."""


class DataError(TrainingError):
    """Footage or a data set that is not what it should be."""


class RunError(TrainingError):
    """A run's folder that cannot be resumed, evaluated or exported."""


class FolderError(TrainingError):
    """A model's folder from elsewhere that cannot become a bundle; the message names file, key and value."""


class LossError(TrainingError):
    """The loss is not a number any more; the message says at which step, and of which part."""


class OutOfMemoryError(TrainingError):
    """A step that does not fit into memory; the message names the keys to lower."""
