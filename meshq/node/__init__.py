"""The daemon: the drivers of the rules, wired together."""
