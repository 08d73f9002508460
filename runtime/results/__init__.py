"""Results of a sequence as files: what is written where, whole or not at all."""
