"""A bundle of exported networks as its readers see it."""
