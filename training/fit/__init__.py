"""Train a model on a recipe's data: the loop, metrics, checkpoints, the run's folder."""
