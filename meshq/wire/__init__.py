"""Bytes between machines: values, messages, links and the HTTP interface."""
