"""Outputs of networks held against one another."""
