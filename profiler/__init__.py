"""Profiler: measures kernels on a device and keeps what it measured."""
