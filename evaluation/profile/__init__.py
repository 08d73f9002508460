"""Times and memory of networks and of whole runs."""
