"""The simulated network: links whose messages are delayed, lost and doubled as a seed says; the twin of `wire.link`.

What a link does without any message is looked at every `LOOK_S`: heartbeats that get through, silence that is
noticed, the end of a connection that reaches the other side, and calls that open a new one.
"""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Collection
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from meshq.core.messages import PROTOCOL_VERSION
from meshq.core.ports import Handler
from meshq.errors import Unreachable
from meshq.wire.calling import CONTROL_HEARTBEAT_S
from tests.sim.link import Arrive, End
from tests.sim.loop import Process, VirtualLoop

# What hears nothing for so long is taken for ended: a ping after one heartbeat, and half of one for its answer.
SILENCE_S = CONTROL_HEARTBEAT_S * 1.5
REDIAL_S = (0.2, 1.0)
LOOK_S = 0.1
RESEND_S = 0.2
APART_S = 1e-6


@dataclass(slots=True)
class Weather:
    """How the network behaves; shares are of messages, delays in seconds."""

    loss: float = 0.0
    double: float = 0.0
    delay_s_min: float = 0.0005
    delay_s_max: float = 0.003


Tap = Callable[[str, str, Any], bool]


class Network:
    """All links of a world.

    `cuts` are ordered pairs: what the first sends, the second never gets. Nobody is told of a cut; a process that
    hears nothing for `SILENCE_S` takes the link for ended. `walls` are ordered pairs, too: the first can't call the
    second, though a link that the second opens carries both ways. A `tap` sees every message before it leaves and may
    swallow it by returning False: scenarios put their faults there. `watch` is shown each that leaves, and `after` is
    called after each that arrived. `bugs` are what handlers raised and never should.
    """

    def __init__(self, loop: VirtualLoop, rng: random.Random) -> None:
        self.loop = loop
        self.rng = rng
        self.weather = Weather()
        self.hosts: dict[str, SimTransport] = {}
        self.cuts: set[tuple[str, str]] = set()
        self.walls: set[tuple[str, str]] = set()
        self.after: Callable[[], None] = lambda: None
        self.watch: Callable[[str, str, Any], None] = lambda sender, to, message: None
        self.tap: Tap = lambda sender, to, message: True
        self.bugs: list[str] = []
        self._links: dict[tuple[str, str], End] = {}
        self._dial_at: dict[tuple[str, str], float] = {}
        self._closed = False
        self._keep_looking()

    def isolate(self, node: str) -> None:
        """Cuts a node off from all others, both ways."""
        for other in self.hosts:
            if other != node:
                self.cuts |= {(node, other), (other, node)}

    def heal(self) -> None:
        """Mends all cuts, and the weather."""
        self.cuts.clear()
        self.weather = Weather()

    def close(self) -> None:
        """The world is over: nothing arrives any more."""
        self._closed = True

    # -- messages ----------------------------------------------------------------------------------------

    def send(self, end: End, message: Any, arrive: Arrive, after_s: float | None = None) -> float:
        """Carries a message from this end to the other, or loses it, or brings it twice.

        Args:
            end: Where it leaves.
            message: What the tap is shown.
            arrive: Runs in the process at the other end, if the link is still open there.
            after_s: Comes later than at this instant, and once; None for what may overtake others and be doubled.

        Returns:
            The instant at which it is there.
        """
        now = self.loop.now
        self.watch(end.node, end.other.node, message)
        lost = self.rng.random() < self.weather.loss
        passes = end.open and self.tap(end.node, end.other.node, message) and not lost
        if not passes or (end.node, end.other.node) in self.cuts:
            return after_s or now
        doubled = self.rng.random() < self.weather.double and after_s is None
        for _ in range(2 if doubled else 1):
            delay_s = self._delay_s()
            if after_s is not None:
                delay_s = max(delay_s, after_s + APART_S - now)
            self._arrive(end.other, delay_s, arrive)
        return now + delay_s

    def tell(self, end: End, arrive: Arrive) -> None:
        """Carries what is never lost: it is sent again until the cut is mended or the link ends."""
        if (end.node, end.other.node) not in self.cuts:
            self._arrive(end.other, self._delay_s(), arrive)
        elif end.open and end.other.open:
            self.loop.call_later(RESEND_S, self.tell, end, arrive)

    def _delay_s(self) -> float:
        return self.rng.uniform(self.weather.delay_s_min, self.weather.delay_s_max)

    def _arrive(self, end: End, delay_s: float, arrive: Arrive) -> None:
        """Has it run in the process at this end, unless the link has ended there."""

        def unless_ended() -> None:
            if end.open and not self._closed:
                end.silent_since = None
                arrive()
                self.after()

        self.loop.call_in(end.process, delay_s, unless_ended)

    # -- links -------------------------------------------------------------------------------------------

    def _keep_looking(self) -> None:
        if not self._closed:
            self.look()
            self.loop.call_later(LOOK_S, self._keep_looking)

    def look(self) -> None:
        """Ends what has ended and opens what can be opened. A process that dies is looked at at once."""
        for pair in itertools.combinations(self.hosts, 2):
            end = self._links.get(pair)
            if end is None:
                self._dial(pair)
                continue
            self._listen(end)
            self._listen(end.other)
            if not (end.in_use or end.other.in_use):
                del self._links[pair]

    def _dial(self, pair: tuple[str, str]) -> None:
        first, second = (self.hosts[node] for node in pair)
        asleep = first.process.halted or second.process.halted
        walled = pair in self.walls and pair[::-1] in self.walls
        if asleep or walled or pair in self.cuts or pair[::-1] in self.cuts:
            self._dial_at.pop(pair, None)
            return
        due = self._dial_at.setdefault(pair, self.loop.now + self.rng.uniform(*REDIAL_S))
        if self.loop.now >= due:
            del self._dial_at[pair]
            self._links[pair] = first.meet(second)

    def _listen(self, end: End) -> None:
        """What a process hears at its end: heartbeats, the end of the connection, or nothing."""
        if not end.in_use or end.process.still:
            end.silent_since = None
            return
        other, now = end.other, self.loop.now
        if (other.node, end.node) in self.cuts or (other.in_use and other.process.still):
            end.silent_since = now if end.silent_since is None else end.silent_since
            if now - end.silent_since < SILENCE_S:
                return
        elif other.in_use:
            end.silent_since = None
            return
        self._arrive(end, self._delay_s(), end.lost)


class SimTransport:
    """One process's links; implements `core.ports.Transport`. `version` is the newest one that it speaks."""

    handler: Handler
    version = PROTOCOL_VERSION

    def __init__(self, network: Network, node: str, process: Process) -> None:
        self.node = node
        self.process = process
        self.counters: Counter[str] = Counter()
        self._network = network
        self._ends: dict[str, End] = {}

    def listen(self, handler: Handler) -> None:
        """Joins the network; from now on others can call, and are called."""
        self.handler = handler
        self._network.hosts[self.node] = self

    def meet(self, other: SimTransport) -> End:
        """Opens a link; this side's end of it."""
        mine, theirs = End(self._network, self), End(self._network, other)
        mine.other, theirs.other = theirs, mine
        self._ends[other.node], other._ends[self.node] = mine, theirs
        return mine

    def connected(self) -> Collection[str]:
        return sorted(node for node, end in self._ends.items() if end.open)

    def version_of(self, node: str) -> int:
        self._pick(node)
        return min(self.version, self._network.hosts[node].version)

    async def request(self, to: str, message: Any, *, timeout_s: float, bulk: bool = False) -> Any:
        return await self._pick(to).request(message, timeout_s)

    async def stream(self, to: str, message: Any, *, idle_s: float) -> AsyncGenerator[Any, None]:
        async with aclosing(self._pick(to).stream(message, idle_s)) as parts:
            async for part in parts:
                yield part

    def _pick(self, to: str) -> End:
        end = self._ends.get(to)
        if end is None or not end.open:
            raise Unreachable(f"no link to …{to[-8:]}")
        return end
