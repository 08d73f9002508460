"""GMOS on a stream: answers while frames come, for as long as they come."""
