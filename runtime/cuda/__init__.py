"""CUDA without PyTorch: driver, memory, transfers."""
