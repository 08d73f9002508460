"""What networks see in videos, kept as a bounded sample."""
