"""What goes onto a device: video in, networks driven through a backend, masks out. Needs no PyTorch."""
