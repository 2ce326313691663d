"""How events are written: others' words in them make no line and no move of their own on a terminal."""

from __future__ import annotations

import logging
import sys

from meshq.node.logs import TextFormat


def test_neither_a_text_nor_a_traceback_moves_anything() -> None:
    try:
        raise ValueError("no\x1b[2J\rnever")
    except ValueError:
        record = logging.LogRecord("meshq", logging.ERROR, "", 1, "it said \x07%s", ("so\nand so",), sys.exc_info())
    first, *trace = TextFormat().format(record).split("\n")
    assert first.endswith(" error: it said  so and so")
    assert (trace[0], trace[-1]) == ("Traceback (most recent call last):", "ValueError: no [2J never")
    assert all(line.isprintable() for line in trace)
