"""Store a model as a bundle, open it on an inference backend, and verify it against PyTorch's numbers."""
