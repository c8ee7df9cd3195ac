"""Measure bundles on an NVIDIA GPU through TensorRT: `streamclf bench --suite gpu`."""
