"""Every figure of the README, each from a command."""
