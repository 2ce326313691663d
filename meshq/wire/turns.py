"""Whose turn it is of those who stand before a door: in lines of their own for each address, and at a pace."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain


@dataclass(slots=True, eq=False)
class Caller:
    """One who stands before the door, until `until_s` at most; `proof` is the task of its handshake.

    `known` says whether somebody at that host has proved the key before.
    """

    raw: socket.socket
    host: str
    until_s: float
    known: bool = False
    proof: asyncio.Task[bool] | None = None


class Line:
    """Callers, in the order in which they came; those of each host have a line of their own.

    Args:
        most: How many there may be; beyond them goes the oldest of the host that has most.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._count = 0
        self._hosts: dict[str, dict[Caller, None]] = {}

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Caller]:
        return iter([caller for line in self._hosts.values() for caller in line])

    def add(self, caller: Caller) -> Caller | None:
        """Puts a caller at the end; who has to go for it."""
        pushed = None
        if self._count >= self._most:
            pushed = next(iter(self._hosts[max(self._hosts, key=lambda host: len(self._hosts[host]))]))
            self.remove(pushed)
        self._hosts.setdefault(caller.host, {})[caller] = None
        self._count += 1
        return pushed

    def remove(self, caller: Caller) -> None:
        """Takes a caller out, if it is there."""
        line = self._hosts.get(caller.host, {})
        if caller in line:
            del line[caller]
            self._count -= 1
            if not line:
                del self._hosts[caller.host]

    def next(self) -> Caller:
        """Takes the first of the host whose turn it is, and whose next turn comes after all others'."""
        host, line = next(iter(self._hosts.items()))
        caller = next(iter(line))
        self.remove(caller)
        if line:
            self._hosts[host] = self._hosts.pop(host)
        return caller


class TwoLines:
    """Callers of known hosts, and all others: those come first, and are pushed out by none of these.

    Whoever has the key and comes again, as nodes do, is not kept out by a stranger, however many addresses that has.

    Args:
        most: How many there may be in each.
    """

    def __init__(self, most: int) -> None:
        self._known, self._strangers = Line(most), Line(most)

    def __len__(self) -> int:
        return len(self._known) + len(self._strangers)

    def __iter__(self) -> Iterator[Caller]:
        return chain(self._known, self._strangers)

    def add(self, caller: Caller) -> Caller | None:
        """Puts a caller at the end of its line; who has to go for it."""
        return self._of(caller).add(caller)

    def remove(self, caller: Caller) -> None:
        """Takes a caller out, if it is there."""
        self._of(caller).remove(caller)

    def next(self) -> Caller:
        """Takes the one whose turn it is."""
        return (self._known if self._known else self._strangers).next()

    def _of(self, caller: Caller) -> Line:
        return self._known if caller.known else self._strangers


class Pace:
    """How often something is begun: so many times a second, and after a pause so many times at once."""

    def __init__(self, per_s: float, at_once: int) -> None:
        self._step_s = 1 / per_s
        self._ahead_s = (at_once - 1) / per_s
        self._due_s = float("-inf")

    def wait_s(self, now_s: float) -> float:
        """How long to wait; where it is 0, it is begun now."""
        wait_s = self._due_s - self._ahead_s - now_s
        if wait_s > 0:
            return wait_s
        self._due_s = max(self._due_s, now_s) + self._step_s
        return 0.0
