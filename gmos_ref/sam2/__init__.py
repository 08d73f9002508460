"""SAM2.1 from the `sam2` package, and its tracker as networks."""
