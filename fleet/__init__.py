"""Many videos: lists of them, claims on them, workers of this machine and of a cluster."""
