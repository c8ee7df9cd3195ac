"""Measure a trained run or a bundle on labelled clips, and report the figures."""
