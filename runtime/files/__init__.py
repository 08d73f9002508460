"""Files of this machine: what is read within bounds, written whole, and known by its hash."""
