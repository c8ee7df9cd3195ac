"""Measure the whole service: cameras made by the bench, every process, a subscriber."""
