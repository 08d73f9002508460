"""One page of many results, and one table of many evaluations."""
