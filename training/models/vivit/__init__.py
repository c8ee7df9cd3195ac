"""Implement ViViT's four variants (Arnab et al., 2021, arXiv 2103.15691)."""
