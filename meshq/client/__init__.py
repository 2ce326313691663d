"""Talking to a daemon from Python."""
