"""What is done to ONNX graphs before a backend compiles them. Needs `onnx`; imported only where it is used."""
