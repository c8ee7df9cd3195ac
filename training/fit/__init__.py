"""Train a model on a recipe's data: the loop, metrics, checkpoints, the run's folder."""

import os

from engines.cache import cache_root

# Lightning imports Matplotlib where it is installed, which would write a list of fonts to a folder of its own.
os.environ.setdefault("MPLCONFIGDIR", str(cache_root() / "matplotlib"))
