"""Checkpoints: files, keys, and the weights that come with the package."""
