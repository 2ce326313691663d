"""All ways to find other nodes, as one stream: mDNS, seeds, remembered peers, and peers told by peers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from meshq.core.addresses import format_address, parse_address
from meshq.core.ids import is_id
from meshq.core.limits import HINTS_MAX
from meshq.core.messages import PROTOCOL_VERSION
from meshq.discovery import mdns
from meshq.discovery.addresses import is_link_local, usable
from meshq.discovery.seeds import Seed, Seeds
from meshq.errors import Malformed

NODES_MAX = 4096
FOREIGN_MAX = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Events:
    """Who hears what the finder finds. All are called on the loop and return at once.

    Args:
        on_candidate: A node's id, None where only an address is known, and all its known addresses, newest first.
        on_foreign: What stands for another cluster, and an address of it; once for each.
        on_twin: A node with this node's id and another boot: the boot and its addresses. It may be an echo of an
            earlier start: ask it before you believe it.
        on_unavailable: Multicast does not work, and why; once.
        on_seed_failed: A seed's name leads nowhere, and why; once until it works again.
    """

    on_candidate: Callable[[str | None, tuple[str, ...]], None]
    on_foreign: Callable[[str, str], None]
    on_twin: Callable[[str, tuple[str, ...]], None]
    on_unavailable: Callable[[str], None]
    on_seed_failed: Callable[[Seed, str], None]


class Finder:
    """Merges the sources; each candidate is told once, and again when something about it is new.

    Args:
        node, boot: This node.
        clusters: What stands for this node's cluster in announcements, asked anew for each: the first is announced.
        port: Where this node listens.
        events: Who hears of it.
        host: The address that it listens on; empty for all.
        seeds: Hosts that the user named.
        remembered: Where peers were reached in earlier starts, by node.
        use_mdns: Whether to announce and listen by multicast.
    """

    def __init__(
        self,
        *,
        node: str,
        boot: str,
        clusters: Callable[[], Sequence[str]],
        port: int,
        events: Events,
        host: str = "",
        seeds: Sequence[Seed] = (),
        remembered: Mapping[str, Sequence[str]] | None = None,
        use_mdns: bool = True,
    ) -> None:
        self.announced = asyncio.Event()
        """Set when this node's first announcement is out, or there will be none for now."""
        self._node = node
        self._boot = boot
        self._clusters = clusters
        self._port = port
        self._host = host
        self._events = events
        self._seeds = Seeds(seeds, self._on_resolved, events.on_seed_failed)
        self._remembered = dict(remembered or {})
        self._use_mdns = use_mdns
        self._known: dict[str, tuple[str, ...]] = {}
        self._boots: dict[str, str] = {}
        self._foreign: set[str] = set()
        self._mdns: mdns.Mdns | None = None

    async def run(self) -> None:
        """Looks for others until cancelled."""
        for node in sorted(self._remembered):
            self.told(node, self._remembered[node])
        async with asyncio.TaskGroup() as group:
            group.create_task(self._seeds.run(), name="seeds")
            if self._use_mdns:
                group.create_task(self._run_mdns(), name="mdns")
            else:
                self.announced.set()

    def told(self, node: str, addresses: Iterable[str]) -> None:
        """Takes what a peer said of another node, or what was remembered.

        Link-local IPv6 addresses are left out: their scope means something on the teller's machine only.
        """
        if is_id(node) and node != self._node:
            self._merge(node, tuple(address for address in addresses if _is_routable(address)))

    def on_found(self, found: mdns.Found) -> None:
        """Takes what a node announced by mDNS."""
        if found.node == self._node:
            if found.boot != self._boot:
                self._events.on_twin(found.boot, found.addresses)
        elif found.cluster not in self._clusters() and found.node not in self._known:
            if found.cluster not in self._foreign and len(self._foreign) < FOREIGN_MAX:
                self._foreign.add(found.cluster)
                self._events.on_foreign(found.cluster, found.addresses[0] if found.addresses else "")
        else:
            self._merge(found.node, found.addresses, found.boot)

    def announce(self) -> None:
        """What stands for this node's cluster has changed."""
        if self._mdns is not None:
            self._mdns.announce(self._clusters()[0])

    def known(self) -> dict[str, tuple[str, ...]]:
        """All nodes found so far, and where."""
        return dict(self._known)

    def own_addresses(self) -> tuple[str, ...]:
        """Where others reach this node, to tell them: without addresses that mean something here only."""
        here = [local.ip for local in usable(self._host) if not is_link_local(local.ip)]
        return tuple(format_address(ip, self._port) for ip in here[:HINTS_MAX])

    def _merge(self, node: str, addresses: tuple[str, ...], boot: str = "") -> None:
        if not addresses:
            return
        before = self._known.get(node, ())
        restarted = boot not in ("", self._boots.get(node, ""))
        if boot:
            self._boots[node] = boot
        fresh = set(addresses).difference(before)
        # A node that started again is worth a call at once, even where it was before.
        if not (fresh or restarted):
            return
        if node not in self._known and len(self._known) >= NODES_MAX:
            forgotten = next(iter(self._known))
            del self._known[forgotten]
            self._boots.pop(forgotten, None)
        self._known[node] = tuple(dict.fromkeys((*addresses, *before)))[:HINTS_MAX]
        self._events.on_candidate(node, self._known[node])

    def _on_resolved(self, seed: Seed, addresses: tuple[str, ...]) -> None:
        own = {format_address(local.ip, self._port) for local in usable(self._host)}
        others = tuple(address for address in addresses if address not in own)
        if others:
            self._events.on_candidate(None, others)

    async def _run_mdns(self) -> None:
        self._mdns = service = mdns.Mdns(
            mdns.Announcement(
                node=self._node,
                boot=self._boot,
                cluster=self._clusters()[0],
                port=self._port,
                version=PROTOCOL_VERSION,
            ),
            on_found=self.on_found,
            on_unavailable=self._events.on_unavailable,
            announced=self.announced,
            local=lambda: usable(self._host),
        )
        await service.run()


def _is_routable(address: str) -> bool:
    try:
        ip, _ = parse_address(address)
    except Malformed:
        return False
    return not is_link_local(ip)
