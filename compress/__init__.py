"""Compression: plans, and the functions that apply them to a network."""
