"""A run on a stream in threads: one reads, one computes, one writes, with bounded queues between."""
