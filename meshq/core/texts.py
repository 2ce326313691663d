"""Words of others, made fit to be shown."""

from __future__ import annotations


def printable(text: str) -> str:
    """The text with a blank for each character that would make a line, a colour or a move of its own."""
    return text if text.isprintable() else "".join(char if char.isprintable() else " " for char in text)
