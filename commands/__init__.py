"""The commands: what they take, how --help tells it, and what they hand to the packages that do the work."""
