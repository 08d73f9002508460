"""Geometry and proposals on some frames of a video only, and on more where these call for it."""
