"""Train, evaluate, export and import the PyTorch models."""

import engines  # noqa: F401 - switches the usage reports of libraries off
