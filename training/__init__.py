"""Train, evaluate, export and import the PyTorch models."""

import os

import engines  # noqa: F401 - switches the usage reports of libraries off
from engines.cache import cache_root

# Lightning imports Matplotlib where it is installed, which would write a list of fonts to a folder of its own.
os.environ.setdefault("MPLCONFIGDIR", str(cache_root() / "matplotlib"))
