"""Quantised bundles: samples of what networks see, ranges, sensitivity, and Q/DQ graphs."""
