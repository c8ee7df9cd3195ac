"""Rewrite and check ONNX graphs before a backend compiles them. Importing it needs `onnx`."""
