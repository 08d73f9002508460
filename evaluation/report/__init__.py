"""Reports: pages, files, and what they say of the machine."""
