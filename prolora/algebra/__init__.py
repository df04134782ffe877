"""Tensors in, tensors out: subspaces (Eq. 1), maps (Eq. 2 and 3) and updates."""
