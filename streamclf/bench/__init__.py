"""Measure speed and capacity: `streamclf bench`."""
