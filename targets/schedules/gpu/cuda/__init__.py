"""Code for CUDA: layers as blocked matrix products on tensor cores, or four products at a time."""
