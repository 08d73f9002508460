"""Two runs or two sets of networks held against one another."""
