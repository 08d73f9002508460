"""Benchmark metrics and the datasets they are computed on."""
