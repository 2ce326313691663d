"""What a person sees of a copy that takes long."""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Iterator

import pytest

from meshq.node import journal
from meshq.node.clock import SystemClock
from meshq.node.copying import Copying
from meshq.node.logs import ERASE, Terminal, TextFormat

PEER = "0" * 24 + "c0ffee42"
MIB = 1 << 20


class Stepping(SystemClock):
    """Goes on where it is told to."""

    now_s = 100.0

    def boot_s(self) -> float:
        return self.now_s


@pytest.fixture
def seen() -> Iterator[io.StringIO]:
    """What a terminal gets."""
    stream = io.StringIO()
    handler = Terminal(stream)
    handler.setFormatter(TextFormat())
    level = journal.events.level
    journal.events.setLevel(logging.DEBUG)
    journal.events.addHandler(handler)
    yield stream
    journal.events.removeHandler(handler)
    journal.events.setLevel(level)


def test_a_long_copy_is_shown_while_it_comes_and_told_when_it_is_here(seen: io.StringIO) -> None:
    clock = Stepping()
    recent = journal.Recent(9)
    journal.events.addHandler(recent)
    with Copying(PEER, clock) as copying:
        clock.now_s += 60  # nothing was new for so long
        copying.add(MIB)
        assert seen.getvalue() == ""
        clock.now_s += 1.2
        copying.add(MIB)
        assert seen.getvalue() == "catching up with c0ffee42: 2.0 MiB so far, 1 s"
        clock.now_s += 1
        copying.add(MIB)
    journal.events.removeHandler(recent)
    shown, *lines = seen.getvalue().split(ERASE)
    assert shown == "catching up with c0ffee42: 2.0 MiB so far, 1 s"
    assert lines[0] == "catching up with c0ffee42: 3.0 MiB so far, 2 s"
    assert re.fullmatch(r"\d\d:\d\d:\d\d caught up with c0ffee42: 3\.0 MiB in 2\.2 s\n", lines[1])
    assert [event.text for event in recent.all()] == ["caught up with c0ffee42: 3.0 MiB in 2.2 s"]


def test_one_that_breaks_off_is_taken_away(seen: io.StringIO) -> None:
    clock = Stepping()
    with pytest.raises(ConnectionError), Copying(PEER, clock) as copying:
        copying.add(MIB)
        clock.now_s += 2
        copying.add(MIB)
        raise ConnectionError
    assert seen.getvalue() == f"catching up with c0ffee42: 2.0 MiB so far, 2 s{ERASE}"


def test_a_short_one_and_a_slow_disk_are_told_to_nobody(seen: io.StringIO) -> None:
    clock = Stepping()
    with Copying(PEER, clock) as copying:
        copying.add(MIB)
        copying.add(MIB)
        clock.now_s += 0.5
    with Copying(PEER, clock) as copying:
        copying.add(100)
        clock.now_s += 5
    assert seen.getvalue() == ""
