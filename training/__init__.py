"""Train, evaluate, export and import the PyTorch models."""
