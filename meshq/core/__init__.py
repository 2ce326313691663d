"""The rules: states, lease, membership and messages, with no clock, no socket and no event loop."""
