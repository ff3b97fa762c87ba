"""Code for GPUs: the same kernels as on processors, one thread per output or per small tile."""
