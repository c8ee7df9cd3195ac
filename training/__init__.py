"""PyTorch models, data, recipes and export; the only package that imports torch."""
