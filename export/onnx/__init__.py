"""From the reference to a bundle of ONNX graphs."""
