"""Devices elsewhere: the server that runs on a board, and the workstation's end of it."""
