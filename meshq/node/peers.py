"""The other nodes: who they are, what they last said, and whether they live."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from meshq.config import Config
from meshq.core import split
from meshq.core.ids import short
from meshq.core.limits import HINTS_MAX, ID_CHARS_MIN, PEERS_MAX
from meshq.core.messages import Hello, PeerHint
from meshq.core.ports import Clock, Transport
from meshq.errors import Ambiguous, MeshqError, NotFound, StoreError
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
        on_keys: Told which key another node offers, and which ones it dropped.
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
        on_keys: Callable[[str, tuple[str, ...]], None],
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
        self._on_keys = on_keys
        self._beat = 0
        self._has_news = False  # somebody's addresses that the others may not know
        self._asked: set[str] = set()

    async def load(self) -> None:
        """Takes up the peers of earlier starts."""
        for known in await self._database.read(stored.known_peers):
            if known.node != self._me:
                self.book[known.node] = Peer(known.node, known.name, known.addresses, heard_ms=known.heard_ms)

    def fresh(self) -> list[str]:
        """The reachable nodes that belong to no cluster yet and may found one."""
        return [
            node for node in self.book if (hello := self.hello_of(node)) is not None and hello.fresh and hello.votes
        ]

    def settled(self) -> list[str]:
        """The reachable nodes that belong to a cluster."""
        return [node for node in self.book if (hello := self.hello_of(node)) is not None and not hello.fresh]

    def called(self, node: str) -> str:
        """A node's name; empty if it never told one."""
        peer = self.book.get(node)
        return self._describe().name if node == self._me else peer.name if peer is not None else ""

    def name_of(self, node: str) -> str:
        """What people call a node: its name and the end of its id."""
        name = self.called(node)
        return f"{name} ({short(node)})" if name else short(node)

    def boot_of(self, node: str) -> str:
        """The boot that a node last told; empty if it never did."""
        hello = self.said(node)
        return hello.boot if hello is not None else ""

    def is_apart(self, node: str) -> bool:
        """Whether a node says that it goes on without a majority."""
        hello = self.said(node)
        return hello is not None and bool(hello.split)

    def hears(self, node: str, other: str) -> bool:
        """Whether a node says that another one answers it; this node knows that of itself."""
        if node == self._me:
            return self._elector.alive(other)
        hello = self.hello_of(node)
        return hello is not None and other in hello.hears

    def heard_s(self, node: str) -> float | None:
        """Seconds since a node last answered, before this start too; None if it never did."""
        if (heard_at := self._elector.lease.standing.heard_at(node)) is not None:
            return self._clock.boot_s() - heard_at
        peer = self.book.get(node)
        return max(0, self._clock.wall_ms() - peer.heard_ms) / 1000 if peer is not None and peer.heard_ms else None

    def around_here(self) -> list[str]:
        """The other nodes to show: replicas, and all but those that have been silent for long, as one that left is."""
        members = self._replicator.roster.members
        return [node for node in self.book if node in members or self._is_around(node)]

    def _is_around(self, node: str) -> bool:
        heard_s = self.heard_s(node)
        return heard_s is None or heard_s < self._config.replace_after_s

    def unheard(self, node: str) -> list[str]:
        """The live replicas, as this node sees them, that don't answer another one."""
        others = {*self._replicator.roster.members} - {self._me, node}
        return sorted(other for other in others if self._elector.alive(other) and not self.hears(node, other))

    def around(self, started_at: float) -> dict[str, split.Peer]:
        """Every replica and known node, as the rules of a split see it; silent since `started_at` at most."""
        now = self._clock.boot_s()
        found = {}
        for node in {*self.book, *self._replicator.roster.members} - {self._me}:
            hello = self.said(node)
            heard_at = self._elector.lease.standing.heard_at(node)
            ours = hello is not None and hello.roster.genesis == self._replicator.roster.genesis
            found[node] = split.Peer(
                alive=self._elector.alive(node), silent_s=now - (started_at if heard_at is None else heard_at),
                stopping=hello is not None and hello.stopping, kind=hello.split if hello is not None and ours else "",
                leader=hello.leader if hello is not None else "",
            )  # fmt: skip
        return found

    def missing(self) -> list[str]:
        """The other replicas that don't answer."""
        members = self._replicator.roster.members
        return [node for node in members if node != self._me and not self._elector.alive(node)]

    def find(self, text: str) -> str:
        """The node that a person names: by its id, a unique end or beginning of it, or its name.

        Raises:
            NotFound: There is none.
            Ambiguous: There are several.
        """
        nodes = sorted({*self.book, *self._replicator.roster.members, self._me})
        fit = [
            node
            for node in nodes
            if text == self.called(node)
            or (len(text) >= ID_CHARS_MIN and (node.startswith(text) or node.endswith(text)))
        ]
        if not fit:
            known = ", ".join(self.name_of(node) for node in nodes)
            raise NotFound(f"no node is called {text!r}; known are {known}")
        if len(fit) > 1:
            raise Ambiguous(f"{text!r} may be {', '.join(self.name_of(node) for node in fit)}: give the id's end")
        return fit[0]

    def said(self, node: str) -> Hello | None:
        """What a node last said, in whatever time; None if it never did."""
        peer = self.book.get(node)
        return peer.hello if peer is not None else None

    def hello_of(self, node: str) -> Hello | None:
        """What a live node last said."""
        return self.said(node) if self._elector.alive(node) else None

    def _live(self) -> list[Hello]:
        return [hello for node in sorted(self.book) if (hello := self.hello_of(node)) is not None]

    def elder_cluster(self, genesis: str) -> str:
        """An older cluster with a majority's leader that can be reached from here; empty if there is none."""
        elders = [
            hello.roster.genesis
            for hello in self._live()
            if "" < hello.roster.genesis < genesis and hello.leader and not hello.split and not hello.roster.into
        ]
        return min(elders, default="")

    def came_home(self) -> set[str]:
        """The clusters that live nodes of this one came from, this one too, of which enough have brought their rows."""
        ours = self._replicator.roster.genesis
        home = [hello for node in self.book if self._replicator.is_home(node) and (hello := self.hello_of(node))]
        told = [hello for hello in home if hello.roster.genesis == ours]
        needed: dict[str, list[int]] = {}
        for hello in (self._describe(), *told):
            for genesis, ended in hello.dissolved.items():
                needed.setdefault(genesis, []).append(ended.needed)
        return {genesis for genesis, counts in needed.items() if len(counts) >= max(counts)}

    def absorber(self, genesis: str) -> str:
        """A reachable cluster that this one became part of; empty if there is none."""
        found = (hello.roster.genesis for hello in self._live() if genesis in hello.roster.absorbed)
        return next(found, "")

    def ended(self, genesis: str, epoch: int) -> bool:
        """Whether a live node says that the roster of `epoch` ended a cluster: a majority had it."""
        told = (hello.dissolved.get(genesis) for hello in self._live())
        return any(ended is not None and ended.epoch == epoch for ended in told)

    def former(self) -> set[str]:
        """Ids that live nodes had before their databases were copied or lost."""
        return {hello.formerly for hello in self._live() if hello.formerly}

    def version(self, mine: int) -> int:
        """What all replicas that were heard speak, and this node, whose version is `mine`."""
        said = [self.said(node) for node in self._replicator.roster.members]
        return min([mine, *(hello.version for hello in said if hello is not None)])

    async def run(self) -> None:
        """Says hello for ever."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                self._beat += 1
                # At once where there is somebody new: the only one that knows them all may be gone in a moment.
                hints = self._hints() if self._has_news or self._beat % HINT_EVERY == 0 else ()
                self._has_news = False
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

    def _make_room(self) -> None:
        """Of too many nodes the one that was heard longest ago is forgotten, unless it is here or a replica."""
        if len(self.book) < PEERS_MAX:
            return
        kept = {*self._replicator.roster.members, *self._transport.connected()}
        others = [peer for peer in self.book.values() if peer.node not in kept]
        if others:
            del self.book[min(others, key=lambda peer: (peer.heard_ms, peer.node)).node]

    async def _take(self, node: str, hello: Hello, *, answered: bool) -> None:
        peer = self.book.get(node)
        if peer is None:
            self._make_room()
            peer = self.book[node] = Peer(node)
        peer.hello, peer.name = hello, hello.name
        if not peer.present:
            peer.present = True
            journal.tell("found", f"found {self.name_of(node)}", node=node)
        # The one that worked comes first, here and in what is remembered and told.
        worked = self._address_of(node)
        addresses = tuple(dict.fromkeys((*([worked] if worked else ()), *hello.addresses)))[:HINTS_MAX]
        self._has_news |= addresses != peer.addresses
        peer.addresses = addresses
        now = self._clock.boot_s()
        if answered:
            peer.heard_ms = self._clock.wall_ms()
        for hint in hello.peers:
            if hint.node != self._me and hint.addresses:
                self._told(hint.node, hint.addresses)
        try:
            self._on_keys(hello.offered, hello.dropped)
            # A leader takes it from anybody: one who is not on the newest roster leads nothing.
            if node == self._elector.leader() or self._elector.leads():
                await self._replicator.adopt_roster(hello.roster)
            if answered and now - peer.remembered_at > REMEMBER_EVERY_S:
                peer.remembered_at = now
                await self._database.write(
                    lambda conn: stored.remember_peer(conn, node, peer.name, peer.addresses, peer.heard_ms)
                )
        except StoreError as error:
            # A full disk keeps nobody from being heard.
            self._counters.add("peer_not_remembered", str(error))
