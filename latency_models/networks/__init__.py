"""Whole networks: the sum of their kernels, and what a target adds to it or hides."""
