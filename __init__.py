"""GMOS moving-object segmentation as a deployable toolkit: reference, runtime, export, evaluation."""

__version__ = "0.1.0"
