"""The backend on TensorRT and TensorRT-RTX engines."""
