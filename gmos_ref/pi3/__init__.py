"""The Pi3 encoder."""
