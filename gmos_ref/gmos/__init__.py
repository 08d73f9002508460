"""The heads of GMOS and GMOS-S."""
