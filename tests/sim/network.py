"""The simulated network: messages are encoded, delayed, lost and doubled as a seed says; the twin of `wire.link`."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Collection, Coroutine
from dataclasses import dataclass
from typing import Any

from meshq.core.messages import Refused
from meshq.core.ports import Handler
from meshq.errors import MeshqError, Unreachable, from_wire
from meshq.wire import codec
from tests.sim.loop import Process, VirtualLoop


@dataclass(slots=True)
class Weather:
    """How the network behaves; shares are of messages, delays in seconds."""

    loss: float = 0.0
    double: float = 0.0
    delay_s_min: float = 0.0005
    delay_s_max: float = 0.003


class Host:
    """A process on the network, and what answers there."""

    def __init__(self, node: str, process: Process, handler: Handler) -> None:
        self.node, self.process, self.handler = node, process, handler


Tap = Callable[[str, str, Any], bool]


class Network:
    """All links of a world.

    `cuts` are ordered pairs: what the first sends, the second never gets. A `tap` sees every message before it leaves
    and may swallow it by returning False: scenarios put their faults there.
    """

    def __init__(self, loop: VirtualLoop, rng: random.Random) -> None:
        self.loop = loop
        self.rng = rng
        self.weather = Weather()
        self.hosts: dict[str, Host] = {}
        self.cuts: set[tuple[str, str]] = set()
        self.tap: Tap = lambda sender, to, message: True

    def passes(self, sender: str, to: str, message: Any) -> bool:
        """Whether a message gets through; chance is asked each time."""
        lost = self.rng.random() < self.weather.loss
        return self.tap(sender, to, message) and not lost and (sender, to) not in self.cuts

    def send(self, sender: str, to: str, message: Any, deliver: Callable[[], None], process: Process) -> None:
        """Delivers to a process after a while, or not at all, or twice."""
        if not self.passes(sender, to, message):
            return
        times = 2 if self.rng.random() < self.weather.double else 1
        for _ in range(times):
            delay_s = self.rng.uniform(self.weather.delay_s_min, self.weather.delay_s_max)
            process.context.copy().run(self.loop.call_later, delay_s * process.rate, deliver)

    def isolate(self, node: str) -> None:
        """Cuts a node off from all others, both ways."""
        for other in self.hosts:
            if other != node:
                self.cuts |= {(node, other), (other, node)}

    def heal(self) -> None:
        """Mends all cuts, and the weather."""
        self.cuts.clear()
        self.weather = Weather()


class SimTransport:
    """One process's end of the network; implements `core.ports.Transport`."""

    def __init__(self, network: Network, node: str, process: Process) -> None:
        self._network = network
        self._node = node
        self._process = process

    def connected(self) -> Collection[str]:
        return sorted(node for node in self._network.hosts if node != self._node)

    async def request(self, to: str, message: Any, *, timeout_s: float, bulk: bool = False) -> Any:
        parts: asyncio.Queue[Any] = asyncio.Queue()
        self._ask(to, message, parts, self._answer_once)
        try:
            async with asyncio.timeout(timeout_s):
                answer = await parts.get()
        except TimeoutError:
            raise Unreachable(f"{to[-8:]} did not answer in {timeout_s} s") from None
        return _unless_refused(answer)

    async def stream(self, to: str, message: Any, *, idle_s: float) -> AsyncIterator[Any]:
        parts: asyncio.Queue[Any] = asyncio.Queue()
        self._ask(to, message, parts, self._answer_all)
        number = 0
        early: dict[int, Any] = {}
        while True:
            while number in early:
                part = early.pop(number)
                number += 1
                if part is None:
                    return
                yield _unless_refused(part)
            try:
                async with asyncio.timeout(idle_s):
                    count, part = await parts.get()
            except TimeoutError:
                raise Unreachable(f"{to[-8:]} fell silent") from None
            if count >= number:
                early[count] = part

    def _ask(self, to: str, message: Any, parts: asyncio.Queue[Any], answer: Any) -> None:
        host = self._network.hosts.get(to)
        if host is None or host.process.dead:
            raise Unreachable(f"no link to {to[-8:]}")
        data = codec.encode(message)

        def deliver() -> None:
            work: Coroutine[Any, Any, None] = answer(host, codec.decode(data), parts)
            self._network.loop.create_task(work)

        self._network.send(self._node, to, message, deliver, host.process)

    async def _answer_once(self, host: Host, message: Any, parts: asyncio.Queue[Any]) -> None:
        try:
            answer = await host.handler.answer(self._node, message)
        except MeshqError as error:
            answer = Refused(code=error.code, message=error.message, retryable=error.retryable)
        self._back(host, answer, parts, None)

    async def _answer_all(self, host: Host, message: Any, parts: asyncio.Queue[Any]) -> None:
        number = 0
        try:
            async for part in host.handler.stream(self._node, message):
                self._back(host, part, parts, number)
                number += 1
                await asyncio.sleep(0.0005)
        except MeshqError as error:
            refused = Refused(code=error.code, message=error.message, retryable=error.retryable)
            self._back(host, refused, parts, number)
            return
        self._back(host, None, parts, number)

    def _back(self, host: Host, answer: Any, parts: asyncio.Queue[Any], number: int | None) -> None:
        """Sends an answer, or with a number one of its parts; None is the end of the parts."""
        data = None if answer is None else codec.encode(answer)

        def deliver() -> None:
            decoded = None if data is None else codec.decode(data)
            parts.put_nowait(decoded if number is None else (number, decoded))

        self._network.send(host.node, self._node, answer, deliver, self._process)


def _unless_refused(answer: Any) -> Any:
    if isinstance(answer, Refused):
        raise from_wire({"code": answer.code, "message": answer.message})
    return answer
