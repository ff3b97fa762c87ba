"""Kernels: what models see of them, the table, and a regressor per operator family."""
