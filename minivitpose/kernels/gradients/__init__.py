"""Kernels of the fast training step: a forward pass that keeps what its backward pass needs, and that backward pass."""
