"""Timing kernels and networks on this machine, in child processes."""
