"""Who is called, at which address, and when again."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

import aiohttp

from meshq.core import limits
from meshq.core.ports import Clock
from meshq.errors import Malformed
from meshq.wire.handshake import KINDS

log = logging.getLogger(__name__)

BACKOFF_FIRST_S: Final = 0.2
BACKOFF_MAX_S: Final = 5.0
CONNECT_S: Final = 2.0
# How long the next address waits for the one before it: long enough for a LAN, short enough for a person.
STAGGER_S: Final = 0.25
MINE_S: Final = 60.0

Socket = aiohttp.ClientWebSocketResponse


class Switchboard(Protocol):
    """What the dialer needs of the links."""

    def missing(self, node: str) -> list[str]:
        """The kinds of which no link to this node is open."""

    async def connect(self, address: str, kind: str) -> Socket:
        """A WebSocket to whoever listens there."""

    async def greet_out(self, socket: Socket, address: str, kind: str) -> str | None:
        """The greetings; the node that is linked by it now, or None where one side refused."""


@dataclass(slots=True, eq=False)
class _Target:
    """Someone to be called: a node, or whoever answers at a seed's address."""

    node: str | None
    addresses: list[str]
    found: str | None = None
    renewed: asyncio.Event = field(default_factory=asyncio.Event)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None

    @property
    def expected(self) -> str | None:
        return self.node or self.found


class Dialer:
    """Keeps calling, with a backoff from 0.2 to 5 s, until both links to each target are open; and again when not."""

    def __init__(
        self, me: str, board: Switchboard, clock: Clock, spawn: Callable[..., asyncio.Task[None] | None]
    ) -> None:
        self._me = me
        self._board = board
        self._clock = clock
        self._spawn = spawn
        self._targets: dict[tuple[str, ...], _Target] = {}
        self._worked: dict[str, str] = {}
        self._mine: dict[str, float] = {}
        self._calls = asyncio.Semaphore(limits.CALLS_MAX)
        self._running = False

    def start(self) -> None:
        """Begins with the targets that are known already."""
        self._running = True
        for target in self._targets.values():
            target.task = self._spawn(self._keep(target))

    def dial(self, node: str | None, addresses: Sequence[str]) -> None:
        """See `Links.dial`."""
        key = (node,) if node is not None else ("", *addresses)
        known = self._targets.get(key)
        if known is None:
            self._make_room()
            known = self._targets[key] = _Target(node, list(addresses[: limits.HINTS_MAX]))
            if self._running:
                known.task = self._spawn(self._keep(known))
        elif set(known.addresses) != set(addresses[: limits.HINTS_MAX]):
            known.addresses = list(addresses[: limits.HINTS_MAX])
            known.renewed.set()

    def forget(self, node: str) -> None:
        """See `Links.forget`."""
        self._give_up((node,))

    def _give_up(self, key: tuple[str, ...]) -> None:
        target = self._targets.pop(key, None)
        if target is not None and target.task is not None:
            target.task.cancel()

    def _make_room(self) -> None:
        """Of too many nodes that nobody but strangers has told of, the one that was told first is called no more."""
        unproved = [key for key, target in self._targets.items() if not self._is_proved(target)]
        if len(unproved) >= limits.UNPROVED_MAX:
            self._give_up(unproved[0])

    def _is_proved(self, target: _Target) -> bool:
        """Whether the user named it, or it was ever linked."""
        node = target.node
        return node is None or node in self._worked or len(self._board.missing(node)) < len(KINDS)

    def worked(self, node: str) -> str | None:
        """The address at which this node answered last."""
        return self._worked.get(node)

    def is_mine(self, address: str) -> None:
        """Remembers for a while that this address leads back here."""
        self._mine[address] = self._clock.boot_s() + MINE_S

    def on_change(self) -> None:
        """A link was opened or ended: those that were content look again."""
        for target in self._targets.values():
            target.changed.set()

    async def _keep(self, target: _Target) -> None:
        backoff_s = BACKOFF_FIRST_S
        while True:
            target.changed.clear()
            if target.expected is not None and not self._board.missing(target.expected):
                await target.changed.wait()
                backoff_s = BACKOFF_FIRST_S
                # Also after a loss: a peer that closes at once must not be called in a tight loop.
                if self._board.missing(target.expected):
                    await self._pause(target, backoff_s)
                continue
            target.renewed.clear()
            if not await self._attempt(target):
                await self._pause(target, backoff_s)
                backoff_s = BACKOFF_FIRST_S if target.renewed.is_set() else min(backoff_s * 2, BACKOFF_MAX_S)

    async def _pause(self, target: _Target, backoff_s: float) -> None:
        """Waits, with jitter so that two nodes don't call each other at the same moment again and again."""
        try:
            async with asyncio.timeout(backoff_s * (0.5 + self._clock.random())):
                await target.renewed.wait()
        except TimeoutError:
            return

    async def _attempt(self, target: _Target) -> bool:
        """Opens what is missing; whether all is open now."""
        missing = self._board.missing(target.expected) if target.expected is not None else KINDS
        for kind in missing:
            if not await self._open(target, kind):
                return False
        return True

    async def _open(self, target: _Target, kind: str) -> bool:
        """Opens one link, trying the addresses until the right node is found."""
        left = self._candidates(target)
        while left:
            won = await _race(left, lambda address: self._board.connect(address, kind), self._calls)
            if won is None:
                return False
            address, socket = won
            left.remove(address)
            node = await self._board.greet_out(socket, address, kind)
            if node is None:
                continue
            self._worked.pop(node, None)
            self._worked[node] = address
            if len(self._worked) > limits.PEERS_MAX:
                del self._worked[next(iter(self._worked))]  # the one that answered longest ago
            if target.node is None:
                target.found = node
            if node == target.expected:
                return True
        return False

    def _candidates(self, target: _Target) -> list[str]:
        now = self._clock.boot_s()
        self._mine = {address: until for address, until in self._mine.items() if until > now}
        # Others' announcements may name any number of addresses: they never take the place of the one that was proved.
        addresses = [self._worked.get(target.expected or ""), *target.addresses]
        return [address for address in dict.fromkeys(filter(None, addresses)) if address not in self._mine]


async def _race(
    addresses: Sequence[str], connect: Callable[[str], Awaitable[Socket]], calls: asyncio.Semaphore
) -> tuple[str, Socket] | None:
    """The first of these addresses that answers; each gets a head start before the next one is tried.

    Args:
        calls: How many may be under way at once, whoever makes them.
    """
    first: asyncio.Future[tuple[str, Socket] | None] = asyncio.get_running_loop().create_future()
    failed = 0

    async def contend(place: int, address: str) -> None:
        nonlocal failed
        await asyncio.sleep(place * STAGGER_S)
        try:
            async with calls, asyncio.timeout(CONNECT_S):
                socket = await connect(address)
        except (OSError, TimeoutError, aiohttp.ClientError, ValueError, Malformed) as error:
            log.debug("nobody at %s: %s", address, error)
            failed += 1
            if failed == len(addresses) and not first.done():
                first.set_result(None)
            return
        if first.done():
            await socket.close()
        else:
            first.set_result((address, socket))

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(contend(place, address)) for place, address in enumerate(addresses)]
        won = await first
        for task in tasks:
            task.cancel()
    return won
