"""From a bundle to engines of TensorRT and TensorRT-RTX."""
