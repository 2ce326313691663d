"""The other nodes: who they are, what they last said, and whether they live."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from meshq.config import Config
from meshq.core.ids import short
from meshq.core.limits import HINTS_MAX
from meshq.core.messages import Hello, PeerHint
from meshq.core.ports import Clock, Transport
from meshq.errors import MeshqError, StoreError
from meshq.node import journal
from meshq.node.counters import Counters
from meshq.node.elector import Elector
from meshq.node.replicator import Replicator
from meshq.store import peers as stored
from meshq.store.database import BaseDatabase

HINT_EVERY = 10  # heartbeats
OTHERS_EVERY = 4  # heartbeats; replicas are asked at each
REMEMBER_EVERY_S = 60.0


@dataclass(slots=True)
class Peer:
    """Another node, with what it last said and the wall clock of its last answer."""

    node: str
    name: str = ""
    addresses: tuple[str, ...] = ()
    hello: Hello | None = None
    heard_ms: int = 0
    present: bool = False  # found, and not lost since
    remembered_at: float = float("-inf")


class Peers:
    """Says hello to the other nodes, twice a second to replicas, and keeps what they answer.

    Args:
        me: This node's id.
        describe: This node's own hello, as of now.
        transport: To the other nodes.
        elector: Is told who answered.
        replicator: Is told a newer roster.
        database: Remembers peers across starts.
        clock: Lease clock and wall clock.
        config: Durations.
        counters: Where silence is counted.
        told: Where addresses that others tell go.
        address_of: At which address a node is connected.
    """

    def __init__(
        self,
        me: str,
        describe: Callable[[], Hello],
        transport: Transport,
        elector: Elector,
        replicator: Replicator,
        database: BaseDatabase,
        clock: Clock,
        config: Config,
        counters: Counters,
        told: Callable[[str, tuple[str, ...]], None],
        address_of: Callable[[str], str | None],
    ) -> None:
        self.book: dict[str, Peer] = {}
        self._me = me
        self._describe = describe
        self._transport = transport
        self._elector = elector
        self._replicator = replicator
        self._database = database
        self._clock = clock
        self._config = config
        self._counters = counters
        self._told = told
        self._address_of = address_of
        self._beat = 0
        self._asked: set[str] = set()

    async def load(self) -> None:
        """Takes up the peers of earlier starts."""
        for known in await self._database.read(stored.known_peers):
            if known.node != self._me:
                self.book[known.node] = Peer(known.node, known.name, known.addresses, heard_ms=known.heard_ms)

    def fresh(self) -> list[str]:
        """The reachable nodes that belong to no cluster yet and may found one."""
        return [
            node
            for node, peer in self.book.items()
            if peer.hello is not None and peer.hello.fresh and peer.hello.votes and self._elector.alive(node)
        ]

    def settled(self) -> list[str]:
        """The reachable nodes that belong to a cluster."""
        return [
            node
            for node, peer in self.book.items()
            if peer.hello is not None and not peer.hello.fresh and self._elector.alive(node)
        ]

    def name_of(self, node: str) -> str:
        """What people call a node: its name and the end of its id."""
        peer = self.book.get(node)
        return f"{peer.name} ({short(node)})" if peer is not None and peer.name else short(node)

    def boot_of(self, node: str) -> str:
        """The boot that a node last told; empty if it never did."""
        peer = self.book.get(node)
        return peer.hello.boot if peer is not None and peer.hello is not None else ""

    async def run(self) -> None:
        """Says hello for ever."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                self._beat += 1
                hints = self._hints() if self._beat % HINT_EVERY == 0 else ()
                mine = replace(self._describe(), peers=hints)
                for node in self._whom():
                    if node not in self._asked:
                        self._asked.add(node)
                        tasks.create_task(self._ask(node, mine))
                await asyncio.sleep(self._config.heartbeat_s)

    def _whom(self) -> Iterable[str]:
        members = self._replicator.roster.members
        connected = self._transport.connected()
        if not members or self._beat % OTHERS_EVERY == 0:
            return connected
        return [node for node in connected if node in members or node not in self.book]

    def _hints(self) -> tuple[PeerHint, ...]:
        known = [PeerHint(node=peer.node, addresses=peer.addresses) for peer in self.book.values() if peer.addresses]
        return tuple(known[:HINTS_MAX])

    async def _ask(self, node: str, mine: Hello) -> None:
        try:
            answer = await self._transport.request(node, mine, timeout_s=self._config.alive_s)
        except MeshqError as error:
            self._counters.add("hello_unanswered", f"{node}: {error}")
            return
        finally:
            self._asked.discard(node)
        if isinstance(answer, Hello):
            self._elector.heard(node)
            await self._take(node, answer, answered=True)

    def on_lost(self, node: str) -> None:
        """The last link to a node has ended."""
        peer = self.book.get(node)
        if peer is not None and peer.present:
            peer.present = False
            if not self._describe().stopping:
                journal.tell("lost", f"lost {self.name_of(node)}", node=node)

    async def on_hello(self, sender: str, hello: Hello) -> Hello:
        """Another node says hello; this node answers in kind."""
        await self._take(sender, hello, answered=False)
        hints = self._hints() if hello.peers else ()
        return replace(self._describe(), peers=hints)

    async def _take(self, node: str, hello: Hello, *, answered: bool) -> None:
        peer = self.book.get(node)
        if peer is None:
            peer = self.book[node] = Peer(node)
        peer.hello, peer.name = hello, hello.name
        if not peer.present:
            peer.present = True
            journal.tell("found", f"found {self.name_of(node)}", node=node)
        # The one that worked comes first, here and in what is remembered and told.
        worked = self._address_of(node)
        peer.addresses = tuple(dict.fromkeys((*([worked] if worked else ()), *hello.addresses)))
        now = self._clock.boot_s()
        if answered:
            peer.heard_ms = self._clock.wall_ms()
        for hint in hello.peers:
            if hint.node != self._me and hint.addresses:
                self._told(hint.node, hint.addresses)
        try:
            if node == self._elector.leader():
                await self._replicator.adopt_roster(hello.roster)
            if answered and now - peer.remembered_at > REMEMBER_EVERY_S:
                peer.remembered_at = now
                await self._database.write(
                    lambda conn: stored.remember_peer(conn, node, peer.name, peer.addresses, peer.heard_ms)
                )
        except StoreError as error:
            # A full disk keeps nobody from being heard.
            self._counters.add("peer_not_remembered", str(error))
