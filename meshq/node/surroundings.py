"""How a daemon finds the others on its network, and what it tells people of that."""

from __future__ import annotations

import asyncio

from meshq.config import Config
from meshq.core.ports import Clock
from meshq.discovery import seeds
from meshq.discovery.finder import Events, Finder
from meshq.node import journal
from meshq.node.keyring import Keyring
from meshq.node.node import Node
from meshq.wire.link import Links

ADDRESSES_S = 2.0


class Surroundings:
    """The search of one life of a node.

    Args:
        links: Are told whom to call.
        keyring: Knows what stands for this cluster in announcements.
        clock: The lease clock.
        config: Where to look.
        announced: Set when others can find this node.
    """

    def __init__(self, links: Links, keyring: Keyring, clock: Clock, config: Config, announced: asyncio.Event) -> None:
        self._links = links
        self._keyring = keyring
        self._clock = clock
        self._config = config
        self._announced = announced
        self._finder: Finder | None = None
        self._own: tuple[str, ...] = ()
        self._look_at = 0.0

    async def run(self, node: Node, port: int) -> None:
        """Looks for others until it is cancelled; `port` is where this node listens."""
        config = self._config
        finder = self._finder = Finder(
            node=node.me, boot=node.boot, clusters=lambda: self._keyring.clusters(config.cluster), port=port,
            host=config.host,
            events=Events(
                on_candidate=self._links.dial, on_foreign=self._on_foreign,
                on_twin=lambda _, addresses: self._links.dial(node.me, addresses),
                on_unavailable=self._on_unavailable, on_seed_failed=self._on_seed_failed,
            ),
            seeds=seeds.parse_all(config.seeds),
            remembered={peer.node: peer.addresses for peer in node.peers.book.values()},
            use_mdns=config.mdns,
        )  # fmt: skip
        if config.seeds and not node.replicator.roster.genesis:
            text = f"asking {', '.join(config.seeds)} for other nodes; without an answer this node begins alone in"
            journal.tell("seeking", f"{text} {config.seed_wait_s:g} s")
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(finder.run())
            await finder.announced.wait()
            self._announced.set()

    def announce(self) -> None:
        """What stands for this cluster in announcements has changed."""
        if self._finder is not None:
            self._finder.announce()

    def told(self, node: str, addresses: tuple[str, ...]) -> None:
        """Another node told where this one is."""
        if self._finder is not None:
            self._finder.told(node, addresses)

    def addresses(self) -> tuple[str, ...]:
        """Where others reach this node, as of now."""
        # Each look asks the system for every interface, and hellos ask often.
        now = self._clock.boot_s()
        if self._finder is not None and now >= self._look_at:
            self._look_at = now + ADDRESSES_S
            self._own = self._finder.own_addresses()
        return self._own

    def _on_foreign(self, found: str, address: str) -> None:
        text = (
            f"another cluster is at {address}, with another name or key. To join it, type `meshq key show` there and "
            "`meshq up --key KEY` here"
        )
        journal.tell("foreign", text, address=address, cluster=found)

    def _on_unavailable(self, reason: str) -> None:
        journal.warn("no_multicast", f"no multicast here ({reason}); use --seed HOST:PORT to name another node")

    def _on_seed_failed(self, seed: seeds.Seed, reason: str) -> None:
        journal.warn("seed_failed", f"--seed {seed}: {reason}", seed=str(seed))
