"""Classify the windows of all streams: batching, load control, actions."""
