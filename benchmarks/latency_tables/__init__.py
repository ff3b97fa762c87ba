"""The tables of `benchmarks.latency`: one file each, with its protocol and its baseline."""
