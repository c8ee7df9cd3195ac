"""Implement the commands of `streamclf` that are neither a subscriber nor a benchmark."""
