"""Classify films and frames in the program that asks for it: `streamclf.classify` and `streamclf.open_model`."""
