"""The PyTorch reference of GMOS: loads the published checkpoints and implements the runtime's interfaces."""
