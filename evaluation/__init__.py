"""Benchmark evaluators on label-map trees: MOS-I, DAVIS J and F, motion grouping, MoCA, GMOS-2K."""
