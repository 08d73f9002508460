"""A page that shows a stream's answers while they come."""
