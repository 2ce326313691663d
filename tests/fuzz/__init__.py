"""Runs by hand: inputs that nobody would write, for the parsers and for daemons that work."""
