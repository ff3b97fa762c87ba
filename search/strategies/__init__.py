"""Strategies: each asks for candidates and is told how they did."""
