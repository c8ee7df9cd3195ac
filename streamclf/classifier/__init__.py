"""The process that classifies, `python -m streamclf.classifier`: tokens of all streams become predictions."""
