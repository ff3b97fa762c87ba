"""Latency models: seconds, with an interval, for any kernel and any network."""
