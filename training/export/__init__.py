"""Write a trained model as a bundle: ONNX graphs, golden clip, model card."""
