"""Frames: what is given, checked and decoded, and prepared for the networks."""
