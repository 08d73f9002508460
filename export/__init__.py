"""Export of the networks to ONNX bundles."""
