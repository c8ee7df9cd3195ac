"""Rewrite and check ONNX graphs before a backend compiles them. Needs `onnx`, which is imported only where it is used."""
