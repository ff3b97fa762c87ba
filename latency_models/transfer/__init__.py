"""A new device from a few measurements, given other devices' profiles."""
