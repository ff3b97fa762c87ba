"""Lowering: from the network's graph to fused kernels."""
